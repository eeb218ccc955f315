//! The master's `show proc`: HAProxy's processes. Pure.

/// `show proc` at the master's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessList {
    /// The master's process id.
    pub master: u32,
    /// How often it has been reloaded, failures included.
    pub reloads: u32,
    /// How many of the last reloads failed in a row.
    pub failed: u32,
    /// The worker that takes new connections.
    pub worker: u32,
    /// The worker's version: major and minor.
    pub version: (u32, u32),
    /// The workers of before the last reload, which still have connections.
    pub older: Vec<u32>,
}

impl ProcessList {
    /// Reads `show proc` (HAProxy 2.6 to 3.2 say the same); `None` if there is no worker, or if it
    /// can't be read.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut section = "";
        let (mut master, mut worker, mut older) = (None, None, Vec::new());
        for line in text.lines() {
            if let Some(title) = line.strip_prefix('#') {
                section = title.trim();
                continue;
            }
            let words: Vec<_> = line.split_whitespace().collect();
            match words.as_slice() {
                [pid, "master", reloads, rest @ ..] => {
                    let failed = rest.iter().position(|word| *word == "[failed:");
                    let failed =
                        failed.and_then(|at| rest.get(at + 1)?.trim_end_matches(']').parse().ok());
                    master = Some((
                        pid.parse().ok()?,
                        reloads.parse().ok()?,
                        failed.unwrap_or_default(),
                    ));
                }
                [pid, "worker", reloads, .., version] if section == "workers" => {
                    let found = (
                        reloads.parse::<u32>().ok()?,
                        pid.parse().ok()?,
                        self::version(version),
                    );
                    // During a reload there may be two: the newer one has seen fewer reloads.
                    worker = worker.into_iter().chain([found]).min();
                }
                [pid, "worker", reloads, .., version] if section == "old workers" => older.push((
                    reloads.parse::<u32>().ok()?,
                    pid.parse().ok()?,
                    self::version(version),
                )),
                _ => {}
            }
        }
        let (master, reloads, failed) = master?;
        // From HAProxy 3.1 on, a reload that failed once the new worker was there leaves no current worker: the
        // one before it goes on taking connections, and is listed as old.
        if worker.is_none() && failed > 0 {
            let serving = older.iter().filter(|(.., version)| *version >= (3, 1));
            worker = serving.copied().min();
        }
        let (_, worker, version) = worker?;
        let older = older.into_iter().map(|(_, pid, _)| pid);
        let older = older.filter(|pid| *pid != worker).collect();
        Some(Self {
            master,
            reloads,
            failed,
            worker,
            version,
            older,
        })
    }
}

/// `2.6.12-1+deb12u4`, `3.0-dev3`. What can't be read is old.
fn version(text: &str) -> (u32, u32) {
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or_default());
    (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failed_reload_of_3_2_the_youngest_old_worker_is_the_one_that_serves() {
        let text = "#<PID>          <type>          <reloads>       <uptime>        <version>      \n\
                    8133            master          3 [failed: 1]   0d00h00m07s     3.2.26-1       \n\
                    # workers\n\
                    # old workers\n\
                    8100            worker          2               0d00h00m09s     3.2.26-1       \n\
                    8137            worker          1               0d00h00m07s     3.2.26-1       \n";
        let read = ProcessList::parse(text).expect("it has a worker");
        assert_eq!((read.worker, read.older), (8137, vec![8100]));
        // Without a failure there is none that serves.
        assert_eq!(ProcessList::parse(&text.replace(" [failed: 1]", "")), None);
    }

    #[test]
    fn what_2_6_says_is_read() {
        let text = "#<PID>          <type>          <reloads>       <uptime>        <version>      \n\
                    26803           master          3 [failed: 1]   0d00h00m04s     2.6.12-1+deb12u4\n\
                    # workers\n\
                    27720           worker          1               0d00h00m00s     2.6.12-1+deb12u4\n\
                    # old workers\n\
                    26833           worker          3               0d00h00m04s     2.6.12-1+deb12u4\n\
                    # programs\n\n";
        let expected = ProcessList {
            master: 26803,
            reloads: 3,
            failed: 1,
            worker: 27720,
            version: (2, 6),
            older: vec![26833],
        };
        assert_eq!(ProcessList::parse(text), Some(expected));
        let starting = text.replace("# workers", "# old workers");
        assert_eq!(ProcessList::parse(&starting), None);
        assert_eq!(ProcessList::parse("Unknown command"), None);
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(version("3.0.5-8e879a5"), (3, 0));
        assert!(version("2.10.1") > version("2.6.12-1+deb12u4"));
        assert_eq!(version("?"), (0, 0));
    }
}
