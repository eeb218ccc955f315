//! One Redis container.

use serde_json::Value as Json;

use super::engine::{Engine, IMAGE};
use super::etcd::Etcd;
use super::scene::HOST;
use super::sidekick::Announce;
use super::value::Value;
use super::wait::{SOON, eventually};

/// A container that `docker run` is still to start.
pub struct Run<'e> {
    engine: &'e Engine,
    name: String,
    options: Vec<String>,
    arguments: Vec<String>,
}

impl<'e> Run<'e> {
    /// A container without any published port.
    pub fn new(engine: &'e Engine, name: &str) -> Run<'e> {
        Run {
            engine,
            name: name.to_owned(),
            options: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// `--publish`: `6379`, `16379:6379`, `10.99.0.1:16379:6379`.
    pub fn publish(self, ports: &str) -> Run<'e> {
        self.option(&format!("--publish={ports}"))
    }

    /// `--label`: `sidekick.service=redis`.
    pub fn label(self, label: &str) -> Run<'e> {
        self.option(&format!("--label={label}"))
    }

    /// Any option of `docker run`, in one word.
    pub fn option(mut self, option: &str) -> Run<'e> {
        self.options.push(option.to_owned());
        self
    }

    /// A health check twice a second, healthy while [`Container::feels`] says `well`.
    pub fn with_health_check(self) -> Run<'e> {
        self.option("--health-cmd=read feeling </feeling && [ \"$feeling\" = well ]")
            .option("--health-interval=500ms")
            .option("--health-timeout=10s")
            .option("--health-retries=2")
    }

    /// Arguments for redis-server instead of the image's, after those that were given before.
    pub fn redis_arguments(mut self, arguments: &[&str]) -> Run<'e> {
        let arguments = arguments.iter().map(|&argument| argument.to_owned());
        self.arguments.extend(arguments);
        self
    }

    /// Creates and starts the container.
    pub async fn run(self) -> Container<'e> {
        self.make(&["run", "--detach"]).await
    }

    /// Creates the container, and leaves it at that.
    pub async fn create(self) -> Container<'e> {
        self.make(&["create"]).await
    }

    async fn make(self, verb: &[&str]) -> Container<'e> {
        let name = format!("--name={}", self.name);
        let mut words = verb.to_vec();
        words.push(&name);
        words.extend(self.options.iter().map(String::as_str));
        let parent = self.engine.cgroup_parent();
        words.extend(parent.as_deref());
        words.push(IMAGE);
        words.extend(self.arguments.iter().map(String::as_str));
        let id = self.engine.docker(&words).await;
        Container {
            engine: self.engine,
            name: self.name,
            id,
        }
    }
}

/// A container, running or not; removed when dropped.
pub struct Container<'e> {
    engine: &'e Engine,
    name: String,
    id: String,
}

impl Container<'_> {
    /// The name it was given first.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The engine that it runs on.
    pub fn engine(&self) -> &Engine {
        self.engine
    }

    /// The full id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The first twelve digits of the id.
    pub fn short_id(&self) -> &str {
        &self.id[..12]
    }

    /// What announces it, in this etcd, at [`KEY`] and as on [`HOST`].
    pub fn announce(&self, etcd: &Etcd) -> Announce {
        self.engine.announce(&self.name, etcd)
    }

    /// The value that is to stand in etcd for a container from [`Engine::redis`] on [`HOST`].
    pub async fn value(&self) -> Value {
        self.at(HOST, self.host_port("6379/tcp").await).await
    }

    /// The value that is to stand in etcd for it.
    pub async fn at(&self, host: &str, port: u16) -> Value {
        let since = self.since().await;
        Value {
            host: host.to_owned(),
            port,
            container: self.short_id().to_owned(),
            since,
            protocol: None,
        }
    }

    /// StartedAt.
    pub async fn since(&self) -> String {
        self.inspect().await["State"]["StartedAt"]
            .as_str()
            .expect("inspect tells StartedAt")
            .to_owned()
    }

    /// The host port that Docker chose, for example for `6379/tcp`.
    pub async fn host_port(&self, port: &str) -> u16 {
        let inspected = self.inspect().await;
        let text = inspected["NetworkSettings"]["Ports"][port][0]["HostPort"].as_str();
        text.and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("{port} is not published"))
    }

    /// Its first process, as the engine's PID namespace counts.
    pub async fn pid(&self) -> u32 {
        let pid = self.inspect().await["State"]["Pid"]
            .as_u64()
            .expect("inspect tells a pid");
        u32::try_from(pid).expect("a pid is small")
    }

    /// What inspect says.
    pub async fn inspect(&self) -> Json {
        let text = self
            .engine
            .docker(&[
                "inspect",
                "--type=container",
                "--format={{json .}}",
                &self.id,
            ])
            .await;
        serde_json::from_str(&text).expect("inspect prints JSON")
    }

    /// `docker start`.
    pub async fn start(&self) {
        self.tell("start").await;
    }

    /// `docker stop`.
    pub async fn stop(&self) {
        self.tell("stop").await;
    }

    /// `docker kill`.
    pub async fn kill(&self) {
        self.tell("kill").await;
    }

    /// `docker pause`.
    pub async fn pause(&self) {
        self.tell("pause").await;
    }

    /// `docker unpause`.
    pub async fn unpause(&self) {
        self.tell("unpause").await;
    }

    /// `docker restart`.
    pub async fn restart(&self) {
        self.tell("restart").await;
    }

    /// `docker rm --force`.
    pub async fn remove(&self) {
        self.engine
            .docker(&["rm", "--force", "--volumes", &self.id])
            .await;
    }

    /// `docker rename`.
    pub async fn rename(&self, name: &str) {
        self.engine.docker(&["rename", &self.id, name]).await;
    }

    /// `docker kill --signal HUP`, which Redis ignores.
    pub async fn hang_up(&self) {
        self.engine
            .docker(&["kill", "--signal=HUP", &self.id])
            .await;
    }

    /// Says what the health check is to find: `well`, or anything else.
    pub async fn feels(&self, feeling: &str) {
        self.exec(&["sh", "-c", &format!("echo {feeling} >/feeling")])
            .await;
    }

    /// Until Docker calls it `healthy` or `unhealthy`.
    pub async fn becomes(&self, health: &str) {
        let what = format!("Docker calls it {health}");
        let is = async || self.inspect().await["State"]["Health"]["Status"] == health;
        eventually(2 * SOON, &what, is).await;
    }

    /// Makes its first process end, without a signal from Docker.
    pub async fn crash(&self) {
        self.exec_fatal(&["redis-cli", "shutdown", "nosave"]).await;
    }

    /// Fills it with more than it may have, so that the kernel kills it.
    pub async fn eat(&self, bytes: u64) {
        self.exec_fatal(&["redis-cli", "setrange", "fat", &bytes.to_string(), "x"])
            .await;
    }

    /// Runs a command that is to end the container, and that may be cut off by the end itself.
    async fn exec_fatal(&self, command: &[&str]) {
        let _ = self
            .engine
            .try_docker(&[&["exec", &self.id], command].concat())
            .await;
    }

    async fn exec(&self, command: &[&str]) {
        self.engine
            .docker(&[&["exec", &self.id], command].concat())
            .await;
    }

    async fn tell(&self, verb: &str) {
        self.engine.docker(&[verb, &self.id]).await;
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // A private engine goes with all it has.
        if self.engine.is_shared() {
            let _ = self
                .engine
                .command()
                .args(["rm", "--force", "--volumes", &self.id])
                .output();
        }
    }
}
