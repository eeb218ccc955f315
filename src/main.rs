//! Parse, set up, dispatch, exit.

use sidekick::agent::{self, AgentConfig};
use sidekick::announce::{self, AnnounceConfig};
use sidekick::cli::{Cli, CliCommand, ignored_variables, one_line};
use sidekick::config::ConfigError;
use sidekick::doctor::{self, DoctorConfig, DoctorFormat};
use sidekick::drain::{self, DrainConfig, InstanceConfig};
use sidekick::explain::{self, ExplainConfig};
use sidekick::export::{self, ExportConfig};
use sidekick::healthcheck::{self, HealthcheckConfig};
use sidekick::list::{self, ListConfig};
use sidekick::wait::{self, WaitConfig};
use sidekick::{log_writer, shutdown, telemetry};
use std::io::{self, Write};
use std::process::ExitCode;
use tracing::level_filters::LevelFilter;

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    if let Err(error) = log_writer::start() {
        // Without its thread stderr is all there is; that it is closed as well is no reason to abort.
        let _ = writeln!(
            io::stderr(),
            "sidekick: cannot start the log's thread: {error}"
        );
        return ExitCode::from(FAILED);
    }
    let status = match Cli::read() {
        Ok(cli) => {
            let level = match &cli.command {
                // The table says what the operator has to know; `2>FILE` keeps the log.
                CliCommand::List(args) if list::shares_terminal_with_log(args) => {
                    args.log.log_level.min(LevelFilter::ERROR)
                }
                _ => cli.log().log_level,
            };
            telemetry::init(level, cli.log().log_format);
            start(cli.command)
        }
        // --help and --version are no errors.
        Err(e) if !e.use_stderr() => e.exit(),
        // A bare `sidekick` wants the whole help.
        Err(e) if std::env::args_os().len() < 2 => {
            log_writer::log().push(e.render().to_string().as_bytes());
            ExitCode::from(WRONG_USAGE)
        }
        Err(e) => complain(&one_line(&e), WRONG_USAGE),
    };
    telemetry::flush();
    status
}

fn start(command: CliCommand) -> ExitCode {
    let ignored = ignored_variables(&command, |name| std::env::var(name).ok());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match (runtime, checked(command)) {
        (_, Err(error)) => {
            let status = if error.may_pass() {
                FAILED
            } else {
                WRONG_USAGE
            };
            return complain(&error.to_string(), status);
        }
        (Err(error), _) => Err(error.into()),
        (Ok(runtime), Ok(mut job)) => {
            // The doctor's report has them.
            let ignored = match &mut job {
                Job::Doctor(config) => {
                    config.ignored_variables = ignored;
                    Vec::new()
                }
                _ => ignored,
            };
            for line in ignored {
                tracing::warn!("{line}");
            }
            let result = runtime.block_on(run(job));
            // Where DNS hangs, getaddrinfo(3) sits in its thread for 20 s, and nothing can cut it short.
            runtime.shutdown_background();
            result
        }
    };
    result.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::from(FAILED)
    })
}

enum Job {
    Agent(AgentConfig),
    Announce(AnnounceConfig),
    List(ListConfig),
    Explain(ExplainConfig),
    Export(ExportConfig),
    Drain(DrainConfig),
    Undrain(InstanceConfig),
    Wait(WaitConfig),
    Healthcheck(HealthcheckConfig),
    Doctor(Box<DoctorConfig>),
}

fn checked(command: CliCommand) -> Result<Job, ConfigError> {
    Ok(match command {
        CliCommand::Agent(args) => Job::Agent(AgentConfig::new(args)?),
        CliCommand::List(args) => Job::List(ListConfig::new(args)?),
        CliCommand::Announce(args) => Job::Announce(AnnounceConfig::new(args)?),
        CliCommand::Explain(args) => Job::Explain(ExplainConfig::new(args)?),
        CliCommand::Export(args) => Job::Export(ExportConfig::new(args)?),
        CliCommand::Drain(args) => Job::Drain(DrainConfig::new(&args)?),
        CliCommand::Undrain(args) => Job::Undrain(InstanceConfig::new(&args.instance)?),
        CliCommand::Wait(args) => Job::Wait(WaitConfig::new(args)?),
        CliCommand::Healthcheck(args) => Job::Healthcheck(HealthcheckConfig::new(&args)?),
        CliCommand::Doctor(args) => Job::Doctor(Box::new(DoctorConfig::new(*args)?)),
    })
}

async fn run(job: Job) -> anyhow::Result<ExitCode> {
    // One provider for the process, before tonic looks for one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match job {
        Job::Agent(config) if config.dry_run => {
            let (text, left_out) = agent::dry_run(&config).await?;
            for line in left_out {
                log_writer::say(line);
            }
            telemetry::flush();
            io::stdout().write_all(text.as_bytes())?;
        }
        Job::Agent(config) => agent::run(config, shutdown::on_signals()?).await?,
        Job::List(config) => list::run(&config, shutdown::on_signals()?).await?,
        Job::Export(config) => export::run(&config, shutdown::on_signals()?).await?,
        Job::Announce(config) => {
            announce::run(config, shutdown::on_signals_and_hand_over()?).await?;
        }
        Job::Explain(config) => {
            let explanation = explain::run(&config).await?;
            io::stdout().write_all(explanation.text.as_bytes())?;
            return Ok(ExitCode::from(u8::from(!explanation.announceable)));
        }
        Job::Drain(config) => {
            let drained = drain::run(&config, shutdown::on_signals()?).await?;
            return Ok(ExitCode::from(u8::from(!drained)));
        }
        Job::Undrain(config) => drain::undo(&config).await?,
        Job::Wait(config) => {
            let serve = wait::run(&config, shutdown::on_signals()?).await?;
            return Ok(ExitCode::from(u8::from(!serve)));
        }
        Job::Healthcheck(config) => {
            let answer = healthcheck::run(&config).await?;
            writeln!(io::stdout(), "{}", answer.line)?;
            return Ok(ExitCode::from(u8::from(!answer.well)));
        }
        Job::Doctor(config) => {
            let report = doctor::run(&config).await?;
            let text = match config.output {
                DoctorFormat::Text => report.to_text(),
                DoctorFormat::Json => report.to_json()?,
            };
            telemetry::flush();
            io::stdout().write_all(text.as_bytes())?;
            return Ok(ExitCode::from(u8::from(!report.is_well())));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn complain(line: &str, status: u8) -> ExitCode {
    log_writer::say(line);
    ExitCode::from(status)
}
