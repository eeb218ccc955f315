//! A real Chromium without a window, driven by its DevTools protocol over a pipe
//! (<https://chromedevtools.github.io/devtools-protocol/>).

use super::wait::PATIENCE;
use super::warden::require;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// The browser reads commands from file descriptor 3, and writes answers to 4. When this process is gone, the pipe ends, and
/// the browser with it.
const START: &str = r#"exec chromium "$@" 3<&0 4>&1 </dev/null >/dev/null 2>"$HOME/log""#;

/// A browser with one page; it, its processes and its files end with the test.
pub struct Browser {
    process: Child,
    group: Pid,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    sent: u64,
    /// Of the page; none before there is one.
    session: Option<String>,
    /// Where it keeps all that it keeps.
    home: TempDir,
}

impl Browser {
    /// Starts one that shows nothing yet, in light colours.
    pub async fn start() -> Browser {
        require("chromium");
        let home = tempfile::Builder::new()
            .prefix("sidekick-test-browser-")
            .tempdir()
            .expect("no temporary directory can be made");
        let path = home.path().display();
        let mut process = Command::new("sh")
            .args(["-c", START, "sh", "--headless", "--remote-debugging-pipe"])
            // Root's Chromium refuses its sandbox. What it is shown here comes from the test alone.
            .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            // It speaks to no machine but this one.
            .args(["--disable-background-networking", "--no-first-run"])
            .args(["--disable-component-update", "--disable-crash-reporter"])
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
            .arg(format!("--user-data-dir={path}/profile"))
            .arg("about:blank")
            .env("HOME", home.path())
            .env("XDG_CONFIG_HOME", home.path())
            .env("XDG_CACHE_HOME", home.path())
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .expect("no shell can be started");
        let pid = process.id().and_then(|pid| i32::try_from(pid).ok());
        let mut browser = Browser {
            group: Pid::from_raw(pid.expect("it has just been started")),
            to: process.stdin.take().expect("stdin is piped"),
            from: BufReader::new(process.stdout.take().expect("stdout is piped")),
            process,
            sent: 0,
            session: None,
            home,
        };
        browser.attach().await;
        browser.looks("light", 1_000, 700).await;
        browser
    }

    async fn attach(&mut self) {
        let all = self.ask("Target.getTargets", json!({})).await;
        let all = all["targetInfos"].as_array().expect("targets").iter();
        let mut pages = all.filter(|it| it["type"] == "page");
        let target = pages.next().expect("there is a page")["targetId"].clone();
        let attach = json!({"targetId": target, "flatten": true});
        let attached = self.ask("Target.attachToTarget", attach).await;
        let session = attached["sessionId"].as_str().expect("a session");
        self.session = Some(session.to_owned());
        self.ask("Page.enable", json!({})).await;
    }

    /// The page in these colours (`light` or `dark`), in a window of so many pixels.
    pub async fn looks(&mut self, colours: &str, width: u32, height: u32) {
        let colours = json!([{"name": "prefers-color-scheme", "value": colours}]);
        let media = json!({"features": colours});
        self.ask("Emulation.setEmulatedMedia", media).await;
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.ask("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// From the next page on no script of a page runs.
    pub async fn runs_no_script(&mut self) {
        let off = json!({"value": true});
        self.ask("Emulation.setScriptExecutionDisabled", off).await;
    }

    /// Goes there. Whether all of the page has come is for the test to look at.
    pub async fn open(&mut self, url: &str) {
        let went = self.ask("Page.navigate", json!({"url": url})).await;
        assert_eq!(went.get("errorText"), None, "{url}");
    }

    /// The value of a JavaScript expression on the page; null while the page is being changed for another.
    pub async fn value(&mut self, expression: &str) -> Value {
        let evaluate = json!({"expression": expression, "returnByValue": true});
        let Ok(mut said) = self.try_ask("Runtime.evaluate", evaluate).await else {
            return Value::Null;
        };
        assert_eq!(said.get("exceptionDetails"), None, "{expression}");
        said["result"]["value"].take()
    }

    /// Writes what the window shows into that file, as PNG.
    pub async fn paint(&mut self, file: &Path) {
        let mut shot = self.ask("Page.captureScreenshot", json!({})).await;
        let data = shot["data"].take();
        let png = from_base64(data.as_str().expect("a picture"));
        assert!(png.starts_with(b"\x89PNG"), "no PNG");
        std::fs::write(file, png).expect("the picture can't be written");
    }

    async fn ask(&mut self, method: &str, parameters: Value) -> Value {
        let result = self.try_ask(method, parameters).await;
        result.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// The result, or the error that Chromium answers with.
    async fn try_ask(&mut self, method: &str, parameters: Value) -> Result<Value, Value> {
        self.sent += 1;
        let mut command = json!({"id": self.sent, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let mut text = command.to_string().into_bytes();
        text.push(0);
        let exchange = async {
            self.to.write_all(&text).await.ok()?;
            loop {
                let mut answer = Vec::new();
                self.from.read_until(0, &mut answer).await.ok()?;
                let answer: Value = serde_json::from_slice(answer.strip_suffix(b"\0")?).ok()?;
                // All else is an event.
                if answer["id"] == json!(self.sent) {
                    return Some(answer);
                }
            }
        };
        let answer = timeout(PATIENCE, exchange).await.ok().flatten();
        let mut answer = answer.unwrap_or_else(|| {
            let log = std::fs::read_to_string(self.home.path().join("log"));
            panic!(
                "no answer of Chromium's to {method}: {}",
                log.unwrap_or_default()
            )
        });
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["result"].take()),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its renderers too; it is not waited for yet, so that the number is its own.
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = killpg(self.group, Signal::SIGKILL);
        }
    }
}

/// RFC 4648, section 4.
fn from_base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for six in text.bytes().filter_map(digit) {
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    bytes
}
