//! The command line of `tinygptv-bench`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{ensure, Context, Result};
use clap::{Args, Parser, Subcommand};

use tinygptv_bench::machine::{self, Machine};
use tinygptv_bench::pair::{self, Pair, PairOptions};
use tinygptv_bench::report::{document, svg, table, targets, About, Report};
use tinygptv_bench::rounds;
use tinygptv_bench::tasks::{self, Selection, ACCURACY, GROUPS};
use tinygptv_bench::worker::{self, Worker};
use tinygptv_convert::synth::Dimensions;
use tinygptv_convert::types::{DecoderType, VisionType};

/// Measure tinygptv beside llama.cpp, ggml, PyTorch and ONNX Runtime on this machine.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Command {
    /// One of the processes that are measured.
    #[command(subcommand, hide = true)]
    Worker(Worker),
}

#[derive(Args)]
struct Options {
    /// Fewer rounds, and the small picture only.
    #[arg(long)]
    quick: bool,
    /// Measurements of each thing, taken in turn [default: 5, or 2 with --quick].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Threads of everybody [default: all processors].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    threads: Option<u16>,
    /// Only these: peaks, load, encode, prefill, decode, questions, busy, memory, accuracy; separated by commas.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = GROUPS)]
    only: Vec<String>,
    /// Another size than the full one, as for `tinygptv-convert synth`.
    #[arg(long, value_name = "LIST")]
    dims: Option<Dimensions>,
    /// Type of the decoders.
    #[arg(long, value_name = "TYPE", default_value = "q4_k_m")]
    decoder_type: DecoderType,
    /// Type of the vision files.
    #[arg(long, value_name = "TYPE", default_value = "q8_0")]
    vision_type: VisionType,
    /// Folder of the models, which are made if they are not there: 11 GB at full size.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    folder: PathBuf,
    /// This program, built for this very processor: it joins in, with its llama.cpp and ggml.
    #[arg(long, value_name = "PROGRAM")]
    native: Option<PathBuf>,
    /// Python with the packages of bench/requirements.txt, for the peers that need it [default: $TGV_PYTHON, or python3].
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
    /// Blocks of the vision encoder that peers compute which compute only some; their time is scaled.
    #[arg(long, value_name = "N", default_value_t = 4)]
    blocks: usize,
    /// Write everything measured here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw a plot here.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replace the measured part of this document, and draw a plot beside it: the same name, ending in .svg.
    #[arg(long, value_name = "FILE")]
    doc: Option<PathBuf>,
    /// Measure nothing: tell what an earlier run wrote with --json.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Print nothing but the tables.
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Some(Command::Worker(worker)) => worker::run(worker),
        None => run(&cli.options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever the causes' own texts look like.
            eprintln!("error: {}", format!("{error:#}").replace(['\n', '\r'], " "));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    // Found out before anything takes time.
    let document = options.doc.as_deref().map(read).transpose()?;
    if let Some(text) = &document {
        document::with_measured(text, "")?;
    }
    let mut report = match &options.from {
        Some(path) => {
            serde_json::from_str(&read(path)?).with_context(|| format!("'{}' is no report", path.display()))?
        }
        None => measure(options)?,
    };
    report.targets = targets::check(&report);

    if let Some(path) = &options.json {
        write(path, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    if let Some(path) = &options.svg {
        write(path, &svg::draw(&report))?;
    }
    let text = table::text(&report);
    if let (Some(path), Some(document)) = (&options.doc, &document) {
        write(path, &document::with_measured(document, &text)?)?;
        write(&path.with_extension("svg"), &svg::draw(&report))?;
    }
    // A reader that has gone away (`| head`) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read '{}'", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write '{}'", path.display()))
}

fn measure(options: &Options) -> Result<Report> {
    let machine = Machine::here();
    let time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let threads = options.threads.map_or(machine.processors, usize::from);
    let rounds = options.rounds.map_or(if options.quick { 2 } else { 5 }, usize::from);
    if let Some(native) = &options.native {
        ensure!(native.is_file(), "'{}' is no program; build it, or leave --native out", native.display());
    }
    let groups = if options.only.is_empty() { GROUPS.map(str::to_owned).into() } else { options.only.clone() };
    let pair = Pair::make_or_reuse(&PairOptions {
        folder: options.folder.clone(),
        dimensions: options.dims.clone(),
        decoder_type: options.decoder_type,
        vision_type: options.vision_type,
        exact: groups.iter().any(|group| group == ACCURACY),
        threads,
        quiet: options.quiet,
    })?;
    let selection = Selection {
        groups,
        quick: options.quick,
        threads,
        native: options.native.clone(),
        python: python(options),
        sizes: pair::vision_sizes(&pair.vision[1].1, &options.dims.clone().unwrap_or_else(Dimensions::full))?,
        blocks: options.blocks.max(1),
        folder: options.folder.clone(),
    };
    let mut contestants = tasks::contestants(&pair, &selection)?;
    let tasks = tasks::tasks(&pair, &selection);
    let tell = |line: &str| {
        if !options.quiet {
            eprintln!("{line}");
        }
    };
    let measured = rounds::run(&tasks, &mut contestants, rounds, &mut |line| tell(line));

    let size = options.dims.as_ref().map_or("full".to_owned(), |d| d.to_string());
    let [decoder, vision] = pair::bytes(&pair)?;
    let settings = BTreeMap::from([
        ("size".to_owned(), size),
        ("decoder".to_owned(), format!("{} ({:.2} GB)", options.decoder_type, decoder as f64 / 1e9)),
        ("vision".to_owned(), format!("{} ({:.2} GB)", options.vision_type, vision as f64 / 1e9)),
        ("threads".to_owned(), threads.to_string()),
        ("rounds".to_owned(), rounds.to_string()),
    ]);
    let about = |c: tinygptv_bench::contestant::Contestant| About {
        key: c.key,
        label: c.label,
        about: c.about,
        missing: c.missing,
        peak_resident: c.peak_resident,
    };
    Ok(Report {
        time,
        machine,
        load_average_after: machine::load_average(),
        settings,
        contestants: contestants.into_iter().map(about).collect(),
        measured,
        targets: Vec::new(),
    })
}

fn python(options: &Options) -> PathBuf {
    let of_environment = || std::env::var_os("TGV_PYTHON").filter(|path| !path.is_empty()).map(PathBuf::from);
    options.python.clone().or_else(of_environment).unwrap_or_else(|| "python3".into())
}
