//! The page in a real browser, in a network of its own: what a person sees, and that nothing in it is a script.

use crate::listen::{listening, started};
use sidekick_harness::Browser;
use sidekick_harness::agent::*;
use sidekick_harness::http::get;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

/// Where the picture of the README goes; `make picture` sets it.
const PICTURE: &str = "SIDEKICK_PAGE_PICTURE";

/// Instance, address and state of each row.
const ROWS: &str = "[...document.querySelectorAll('#content tr:not(.quarantined)')].filter(it => it.querySelector('b'))
    .map(it => [it.cells[0].textContent, it.cells[1].textContent, it.querySelector('b').textContent].join(' '))";

async fn rows(browser: &mut Browser) -> Vec<String> {
    let rows = browser.value(ROWS).await;
    let rows = rows.as_array().cloned().unwrap_or_default();
    let text = |row: &serde_json::Value| row.as_str().unwrap_or_default().to_owned();
    rows.iter().map(text).collect()
}

/// Waits until the page shows these rows, and no others.
async fn shows(browser: &mut Browser, expected: &[String]) {
    becomes(PATIENCE, "the page", expected.to_vec(), async || {
        rows(browser).await
    })
    .await;
}

/// A browser that shows the page, and follows it.
async fn followed(address: SocketAddr) -> Browser {
    let mut browser = Browser::start().await;
    browser.open(&format!("http://{address}/")).await;
    let live = "document.getElementById('live')?.textContent";
    becomes(
        PATIENCE,
        "the stream",
        serde_json::json!("live"),
        async || browser.value(live).await,
    )
    .await;
    browser
}

fn row(name: &str, at: &str, state: &str) -> String {
    format!("{name} {at} {state}")
}

#[test]
fn a_browser_shows_each_change_within_a_second() {
    let test = "page::a_browser_shows_each_change_within_a_second";
    apart(test, async {
        let (scene, address) = started(Supervised).await;
        let _backends = [
            Backend::at("10.5.0.7:6379", "a").await,
            Backend::at("10.5.0.8:6379", "b").await,
        ];
        let [here, there] = ["10.5.0.7:6379", "10.5.0.8:6379"];
        let mut browser = followed(address).await;
        scene
            .put("redis", "redis@0", &value_of("10.5.0.8", 6379))
            .await;
        let other = row("redis@0", there, "serving");
        shows(&mut browser, std::slice::from_ref(&other)).await;
        let draining = value_of("10.5.0.8", 6379).replace('}', r#","status":"draining"}"#);
        for (what, value, expected) in [
            (
                "put",
                value_of("10.5.0.7", 6379),
                row("redis@1", here, "serving"),
            ),
            (
                "moved",
                value_of("10.5.0.8", 6379),
                row("redis@1", there, "serving"),
            ),
            ("drained", draining, row("redis@1", there, "draining")),
            ("deleted", String::new(), String::new()),
        ] {
            let began = Instant::now();
            match value.as_str() {
                "" => scene.delete("redis", "redis@1").await,
                value => scene.put("redis", "redis@1", value).await,
            }
            let mut expected = vec![other.clone(), expected];
            expected.retain(|row| !row.is_empty());
            shows(&mut browser, &expected).await;
            let took = began.elapsed();
            assert!(took < secs(1), "{what}: on the page after {took:?}");
        }
        // The page was not loaded again for any of that.
        let loads = "performance.getEntriesByType('navigation').length + performance.getEntriesByType('resource')
            .filter(it => !it.name.endsWith('/events')).length";
        assert_eq!(browser.value(loads).await, 1);
    });
}

#[test]
fn in_a_browser_a_hostile_value_is_text_and_no_script_runs() {
    let test = "page::in_a_browser_a_hostile_value_is_text_and_no_script_runs";
    apart(test, async {
        let (scene, address) = started(Supervised).await;
        let mut browser = followed(address).await;
        let watch =
            "addEventListener('securitypolicyviolation', () => { window.violated = true; })";
        browser.value(&format!("{watch}, null")).await;
        let hostile = [
            "/services/redis/<img src=x onerror=\"window.stolen=1\">",
            "/services/redis/'\"></td></table><script>window.stolen=1</script>",
            "/services/redis/</script><svg onload=window.stolen=1>&amp;",
        ];
        for key in hostile {
            scene
                .etcd
                .put(
                    key,
                    "{\"host\":\"<b onmouseover=window.stolen=1>\",\"port\":1}",
                )
                .await;
        }
        // Both ways: as the page's content changes, and as it is loaded.
        for loaded in [false, true] {
            if loaded {
                browser.open(&format!("http://{address}/")).await;
            }
            for key in hostile {
                // Quarantined keys are shown as a quoted text is, with backslashes.
                let key = serde_json::json!(key);
                let shown = format!(
                    "[...document.querySelectorAll('td')].some(it => it.textContent.replaceAll('\\\\', '') === {key})"
                );
                becomes(PATIENCE, &key, serde_json::json!(true), async || {
                    browser.value(&shown).await
                })
                .await;
            }
            let elements = "document.querySelectorAll('#content :is(img, svg, script, td b, [onmouseover])').length";
            assert_eq!(browser.value(elements).await, 0);
            let scripts =
                "[document.scripts.length, 'stolen' in window, 'violated' in window].join()";
            assert_eq!(browser.value(scripts).await, "1,false,false");
        }
    });
}

#[test]
fn without_script_the_page_is_a_table_that_is_loaded_again() {
    let test = "page::without_script_the_page_is_a_table_that_is_loaded_again";
    apart(test, async {
        let (scene, address) = started(Supervised).await;
        let _backends = [
            Backend::at("10.5.0.7:6379", "a").await,
            Backend::at("10.5.0.7:6380", "b").await,
        ];
        scene
            .put("redis", "redis@1", &value_of("10.5.0.7", 6379))
            .await;
        let mut browser = Browser::start().await;
        browser.runs_no_script().await;
        browser.open(&format!("http://{address}/")).await;
        let first = row("redis@1", "10.5.0.7:6379", "serving");
        shows(&mut browser, std::slice::from_ref(&first)).await;
        let live = browser.value("document.getElementById('live')?.textContent");
        assert_eq!(live.await, "");
        // Only by the page's being loaded again.
        scene
            .put("redis", "redis@2", &value_of("10.5.0.7", 6380))
            .await;
        let second = "redis@2 10.5.0.7:6380 serving".to_owned();
        shows(&mut browser, &[first, second]).await;
    });
}

#[test]
fn the_page_fits_a_phone_in_light_and_dark() {
    let test = "page::the_page_fits_a_phone_in_light_and_dark";
    apart(test, async {
        let (scene, address) = started(Supervised).await;
        let long = "x".repeat(60);
        scene
            .put(
                &long,
                &long,
                &value_of(&format!("{long}.internal"), 6379)[..],
            )
            .await;
        scene
            .etcd
            .put(&format!("/services/{long}/ "), &"{".repeat(200))
            .await;
        let mut browser = followed(address).await;
        let quarantined = "document.querySelectorAll('tr.quarantined').length > 0";
        becomes(
            PATIENCE,
            "the key in quarantine",
            serde_json::json!(true),
            async || browser.value(quarantined).await,
        )
        .await;
        let mut backgrounds = Vec::new();
        for colours in ["light", "dark"] {
            browser.looks(colours, 360, 700).await;
            let width = "document.documentElement.scrollWidth";
            assert_eq!(
                browser.value(width).await,
                360,
                "it has to be scrolled sideways"
            );
            let background = "getComputedStyle(document.body).backgroundColor";
            backgrounds.push(browser.value(background).await);
        }
        assert_ne!(backgrounds[0], backgrounds[1]);
    });
}

/// What the README shows: some of each state.
#[test]
fn a_picture_of_the_page_can_be_painted() {
    let test = "page::a_picture_of_the_page_can_be_painted";
    apart(test, async {
        let web = "--bind=web=:8000";
        let (mut scene, address) = listening(AgentScene::new(Supervised, &[web]).await);
        scene.port = 80;
        scene.begin().await;
        let mut backends = Vec::new();
        let since = |minute: u32, status: &str| {
            format!(r#","since":"2026-11-27T05:{minute:02}:06Z"{status}}}"#)
        };
        let draining = r#","status":"draining""#;
        for (service, instance, at, rest) in [
            ("redis", "redis@1", ("10.5.0.7", 6379), since(6, "")),
            ("redis", "redis@2", ("10.5.0.8", 6379), since(9, "")),
            ("redis", "redis@3", ("10.5.0.7", 6380), since(12, draining)),
            ("web", "web@1", ("10.5.0.7", 8080), since(31, "")),
            ("web", "web@2", ("10.5.0.8", 8080), since(32, "")),
        ] {
            backends.push(Backend::at(&format!("{}:{}", at.0, at.1), "it").await);
            let value = value_of(at.0, at.1).replace('}', &rest);
            scene.put(service, instance, &value).await;
        }
        scene
            .put("web", "web@3", "{\"host\":\"web3.internal\",\"port\":8080}")
            .await;
        scene.put("web", "web@4", "{\"host\":\"10.5.0.8\"}").await;
        let mut browser = followed(address).await;
        let all = async |browser: &mut Browser| {
            let mut rows = rows(browser).await;
            rows.iter_mut()
                .for_each(|row| *row = row.rsplit(' ').next().unwrap_or_default().to_owned());
            rows
        };
        let expected = [
            "serving",
            "serving",
            "draining",
            "serving",
            "serving",
            "unresolved",
        ];
        becomes(
            PATIENCE,
            "the states",
            expected.map(str::to_owned).to_vec(),
            async || all(&mut browser).await,
        )
        .await;
        scene
            .put(
                "redis",
                "redis@2",
                &value_of("10.5.0.8", 6379).replace('}', &since(9, draining)),
            )
            .await;
        becomes(PATIENCE, "the drains", 2, async || {
            let states = all(&mut browser).await;
            states.iter().filter(|it| *it == "draining").count()
        })
        .await;
        let height = browser.value("document.documentElement.scrollHeight").await;
        let height = u32::try_from(height.as_u64().unwrap()).unwrap();
        browser.looks("light", 860, height.min(1_000)).await;
        let unasked = scene.dir.path().join("page.png");
        let file = std::env::var_os(PICTURE).map_or(unasked, PathBuf::from);
        browser.paint(&file).await;
        let size = std::fs::metadata(&file).unwrap().len();
        assert!((5_000..200_000).contains(&size), "{size} bytes");
        assert!(get(address, "/").await.unwrap().body.contains("redis@3"));
    });
}
