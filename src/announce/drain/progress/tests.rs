use super::*;

/// What stands in etcd, and one instance that drains.
struct Scene {
    control: ControlPrefix,
    views: AgentViews,
    progress: DrainProgress,
}

fn endpoint() -> Endpoint {
    let value = br#"{"host":"10.0.0.7","port":6379,"since":"2026-11-23T05:06:06Z"}"#;
    Endpoint::decode(value).unwrap()
}

fn name() -> InstanceName {
    InstanceName::parse("redis/redis@1").unwrap()
}

impl Scene {
    fn new() -> Self {
        Self {
            control: ControlPrefix::of("/services"),
            views: AgentViews::default(),
            progress: DrainProgress::new(name(), Arc::new(endpoint())),
        }
    }

    /// Agents of these services; the drain doesn't hear of it yet.
    fn serves(&mut self, id: &str, services: &[&str]) {
        let services = services.iter().map(|it| (*it).to_owned()).collect();
        let value = AgentRecord { services }.encode();
        let key = self.control.agent(id);
        self.views
            .put(&self.control, key.as_bytes(), value.as_bytes());
    }

    fn says(&mut self, id: &str, word: &DrainWord) {
        let key = self.control.word(id, &name());
        let value = word.encode();
        self.views
            .put(&self.control, key.as_bytes(), value.as_bytes());
    }

    fn takes_back(&mut self, id: &str) {
        let key = self.control.word(id, &name());
        self.views.delete(&self.control, key.as_bytes());
    }

    fn goes(&mut self, id: &str) {
        let key = self.control.agent(id);
        self.views.delete(&self.control, key.as_bytes());
    }

    fn is_drained(&mut self) -> bool {
        self.progress.update(&self.views);
        self.progress.is_drained()
    }
}

fn word() -> DrainWord {
    DrainWord::about(&endpoint(), false)
}

#[test]
fn it_is_drained_once_each_agent_of_the_service_has_given_its_word() {
    let mut scene = Scene::new();
    scene.serves("a", &["redis", "web"]);
    scene.serves("b", &["redis"]);
    scene.serves("c", &["web"]);
    assert!(!scene.is_drained());
    scene.says("a", &word());
    assert!(!scene.is_drained());
    assert_eq!(scene.progress.silent().collect::<Vec<_>>(), ["b"]);
    scene.says("b", &word());
    assert!(scene.is_drained());
    assert_eq!(scene.progress.agents(), 2, "c serves another service");
    assert!(!scene.progress.is_alone());
}

#[test]
fn without_any_agent_it_is_never_known_to_be_drained() {
    let mut scene = Scene::new();
    assert!(!scene.is_drained());
    scene.serves("c", &["web"]);
    scene.says("c", &word());
    assert!(!scene.is_drained(), "c serves another service");
    scene.says("d", &word());
    assert!(!scene.is_drained(), "no agent is d");
}

#[test]
fn the_word_of_an_agent_that_leaves_counts_and_its_silence_does_too() {
    let mut scene = Scene::new();
    scene.serves("a", &["redis"]);
    scene.serves("b", &["redis"]);
    scene.says("a", &word());
    assert!(!scene.is_drained());
    // One revision of etcd: a's lease is revoked.
    scene.goes("a");
    scene.takes_back("a");
    scene.says("b", &word());
    assert!(scene.is_drained(), "a had given its word");

    let mut scene = Scene::new();
    scene.serves("a", &["redis"]);
    assert!(!scene.is_drained());
    scene.goes("a");
    assert!(!scene.is_drained(), "a's HAProxy may still route");
    scene.serves("b", &["redis"]);
    scene.says("b", &word());
    assert!(!scene.is_drained(), "b doesn't speak for a");
    // It is back, by the same id.
    scene.serves("a", &["redis"]);
    assert!(!scene.is_drained());
    scene.says("a", &word());
    assert!(scene.is_drained());
}

#[test]
fn a_word_that_is_taken_back_no_longer_counts() {
    let mut scene = Scene::new();
    scene.serves("a", &["redis"]);
    scene.says("a", &word());
    assert!(scene.is_drained());
    scene.takes_back("a");
    assert!(!scene.is_drained());
}

#[test]
fn a_word_about_another_life_or_address_does_not_count() {
    let mut other = endpoint();
    other.since = crate::endpoint::Since::parse("2026-11-23T05:06:07Z");
    let mut scene = Scene::new();
    scene.serves("a", &["redis"]);
    scene.says("a", &DrainWord::about(&other, true));
    assert!(!scene.is_drained());
    assert!(!scene.progress.is_alone());
    scene.says("a", &DrainWord::about(&endpoint().draining(), true));
    assert!(scene.is_drained());
    assert!(scene.progress.is_alone());
}

#[test]
fn an_agent_that_starts_during_the_drain_has_to_give_its_word_too() {
    let mut scene = Scene::new();
    scene.serves("a", &["redis"]);
    scene.says("a", &word());
    scene.serves("b", &["redis"]);
    assert!(!scene.is_drained());
    // Also one that no longer lists the service.
    scene.serves("b", &[]);
    assert!(!scene.is_drained());
    scene.says("b", &word());
    assert!(scene.is_drained());
}

#[test]
fn junk_at_a_control_key_is_no_agent_and_no_word() {
    let mut scene = Scene::new();
    scene.serves("a", &["redis"]);
    scene.says("a", &word());
    let key = scene.control.word("a", &name());
    scene.views.put(&scene.control, key.as_bytes(), b"yes");
    assert!(!scene.is_drained());
    let key = scene.control.agent("b");
    scene.views.put(&scene.control, key.as_bytes(), b"\xff");
    scene.says("a", &word());
    assert!(scene.is_drained());
}
