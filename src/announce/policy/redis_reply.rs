//! What a reply of Redis to a PING says of it. Pure.

/// PING, as redis-cli sends it. (<https://redis.io/docs/latest/develop/reference/protocol-spec/>)
pub const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// The most of a reply that is read, in bytes: Redis' own errors are shorter.
pub const MAX_REPLY: usize = 256;

/// The errors of a Redis that takes no commands now: it reads its data, a script runs, its master is away and it may not
/// serve old data, or it takes connections of its own machine alone. (Redis' src/server.c and src/networking.c.)
const TAKES_NO_COMMANDS: [&str; 4] = ["LOADING", "BUSY", "MASTERDOWN", "DENIED"];

/// So begins the error of a Redis that has as many clients as it may have: it closes each new connection with it. Its code
/// alone says nothing. (Redis' src/networking.c; the words after these depend on whether it is part of a cluster.)
const TAKES_NO_CLIENTS: &str = "ERR max number of clients";

/// Whether Redis takes commands, by the first line of its reply. An error about the one who asks (`-NOAUTH`, `-NOPERM`), or about
/// writes (`-MISCONF`), is an answer.
///
/// # Errors
/// What is wrong with the reply.
pub fn redis_takes_commands(reply: &[u8]) -> Result<(), String> {
    let line = reply
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    if line.is_empty() {
        return Err("closed the connection without an answer".to_owned());
    }
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end();
    let told = || line.escape_debug().collect::<String>();
    if line == "+PONG" {
        return Ok(());
    }
    let Some(error) = line.strip_prefix('-') else {
        return Err(format!("answers \"{}\", as no Redis does", told()));
    };
    let code = error.split(' ').next().unwrap_or_default();
    match TAKES_NO_COMMANDS.contains(&code) || error.starts_with(TAKES_NO_CLIENTS) {
        true => Err(format!("answers {}", told())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_takes_commands_where_it_answers_other_than_that_it_does_not() {
        for reply in [
            "+PONG\r\n",
            "-NOAUTH Authentication required.\r\n",
            "-NOPERM this user has no permissions to run the 'ping' command\r\n",
            "-ERR unknown command 'PING', with args beginning with: \r\n",
            "-MISCONF Redis is configured to save RDB snapshots\r\n",
        ] {
            assert_eq!(redis_takes_commands(reply.as_bytes()), Ok(()), "{reply}");
        }
        for (reply, told) in [
            (
                "-LOADING Redis is loading the dataset in memory\r\n",
                "answers -LOADING Redis is loading the dataset in memory",
            ),
            (
                "-BUSY Redis is busy running a script.\r\n",
                "answers -BUSY Redis is busy running a script.",
            ),
            (
                "-MASTERDOWN Link with MASTER is down\r\n",
                "answers -MASTERDOWN Link with MASTER is down",
            ),
            (
                "-DENIED Redis is running in protected mode\r\n-x",
                "answers -DENIED Redis is running in protected mode",
            ),
            (
                "-ERR max number of clients reached\r\n",
                "answers -ERR max number of clients reached",
            ),
            (
                "-ERR max number of clients + cluster connections reached\r\n",
                "answers -ERR max number of clients + cluster connections reached",
            ),
            ("", "closed the connection without an answer"),
            (
                "HTTP/1.1 400 Bad Request\r\n",
                "answers \"HTTP/1.1 400 Bad Request\", as no Redis does",
            ),
            ("+PON", "answers \"+PON\", as no Redis does"),
            (
                "\u{1b}[2J\u{7}\r\n",
                "answers \"\\u{1b}[2J\\u{7}\", as no Redis does",
            ),
        ] {
            assert_eq!(redis_takes_commands(reply.as_bytes()), Err(told.to_owned()));
        }
    }
}
