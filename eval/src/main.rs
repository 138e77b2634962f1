//! The command line of `tinygptv-eval`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{ensure, Result};
use clap::{Args, Parser, Subcommand};

use tinygptv_convert::output::{Progress, Unit};
use tinygptv_convert::source::hash_file;
use tinygptv_eval::answerer::{ModelAnswerer, MAX_NEW_TOKENS};
use tinygptv_eval::benchmark::Benchmark;
use tinygptv_eval::formats::{self, Location};
use tinygptv_eval::results::{self, FileId, Header, Writer};
use tinygptv_eval::{runner, summary};

/// Run TinyGPT-V on the benchmarks of its paper, with the paper's questions and scoring.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Visual Spatial Reasoning: test.jsonl of the zero-shot split, COCO's pictures.
    Vsr(RunArgs),
    /// GQA: testdev_balanced_questions.json.
    Gqa(RunArgs),
    /// IconQA, texts to choose from: the folder choose_txt of a split, or choose_text_val.json.
    Iconvqa(RunArgs),
    /// VizWiz VQA: val.json.
    Vizwiz(RunArgs),
    /// Hateful Memes: dev_seen.jsonl.
    HatefulMemes(RunArgs),
    /// RefCOCO: refcoco_testA.json and the like, or refs(unc).p with instances.json beside it.
    Refcoco(RunArgs),
    /// RefCOCO+: as refcoco.
    #[command(name = "refcoco+")]
    RefcocoPlus(RunArgs),
    /// RefCOCOg: as refcoco, with refs(umd).p.
    Refcocog(RunArgs),
    /// Print the table of finished or unfinished runs beside the paper's figures.
    Summary {
        /// Files of results.
        #[arg(required = true)]
        results: Vec<PathBuf>,
    },
}

#[derive(Args)]
struct RunArgs {
    /// The decoder .gguf.
    #[arg(long, value_name = "FILE")]
    decoder: PathBuf,
    /// The vision .gguf.
    #[arg(long, value_name = "FILE")]
    vision: PathBuf,
    /// The dataset's questions with answers.
    #[arg(long, value_name = "FILE")]
    annotations: PathBuf,
    /// Folder of the pictures [default: the annotations' folder].
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// The split to take from a refs(….).p file: val, testA, testB, test.
    #[arg(long)]
    split: Option<String>,
    /// Stop after the first N items of the dataset; a later run with the same -o may go on with more.
    #[arg(long, value_name = "N", value_parser = positive)]
    limit: Option<usize>,
    /// Prompt template by its name in the vision file [default: rank for iconvqa, otherwise benchmark].
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// Threads [default: all cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    threads: Option<u16>,
    /// Stop at the first item that cannot be answered, instead of recording and counting it.
    #[arg(long)]
    strict: bool,
    /// Print nothing but the table, warnings and errors.
    #[arg(long)]
    quiet: bool,
    /// File of results, one line an item. If it exists, its run goes on.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "a whole number from 1 is needed".into())
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Vsr(args) => run(Benchmark::Vsr, &args),
        Command::Gqa(args) => run(Benchmark::Gqa, &args),
        Command::Iconvqa(args) => run(Benchmark::Iconvqa, &args),
        Command::Vizwiz(args) => run(Benchmark::Vizwiz, &args),
        Command::HatefulMemes(args) => run(Benchmark::HatefulMemes, &args),
        Command::Refcoco(args) => run(Benchmark::Refcoco, &args),
        Command::RefcocoPlus(args) => run(Benchmark::RefcocoPlus, &args),
        Command::Refcocog(args) => run(Benchmark::Refcocog, &args),
        Command::Summary { results } => print_summary(&results),
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

fn run(benchmark: Benchmark, args: &RunArgs) -> Result<()> {
    let progress = Progress::new(args.quiet);
    let beside = if args.annotations.is_dir() { Some(args.annotations.as_path()) } else { args.annotations.parent() };
    let images = args.images.as_deref().or(beside).unwrap_or(Path::new(""));
    ensure!(images.as_os_str().is_empty() || images.is_dir(), "'{}' is no folder of pictures", images.display());
    let at = Location { annotations: args.annotations.clone(), images: images.to_owned(), split: args.split.clone() };
    let dataset = formats::load(benchmark, &at)?;

    let first = &dataset.items[0].picture;
    ensure!(
        dataset.items.iter().any(|item| item.picture.exists()),
        "none of the dataset's pictures is there, the first not at '{}'; pass their folder as --images",
        first.display()
    );

    let models = [identify(&args.decoder, &progress)?, identify(&args.vision, &progress)?];
    let annotations = FileId { name: dataset.name, sha256: dataset.sha256 };
    let template = args.template.as_deref().unwrap_or(benchmark.template());
    let header = Header::new(benchmark, annotations, dataset.items.len(), models, template, MAX_NEW_TOKENS);
    let (mut writer, known) = Writer::open(&args.out, &header)?;

    let all = dataset.items.len();
    let items = &dataset.items[..args.limit.map_or(all, |n| all.min(n))];
    let threads = args.threads.map_or(0, usize::from);
    let mut answerer = ModelAnswerer::load(&args.decoder, &args.vision, template, threads)?;
    runner::run(items, &known, &mut answerer, &mut writer, args.strict, &progress)?;
    print_summary(std::slice::from_ref(&args.out))
}

fn identify(path: &Path, progress: &Progress) -> Result<FileId> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bar = progress.step(&format!("hashing {name}"), path.metadata().map_or(0, |m| m.len()), Unit::Bytes);
    let sha256 = hash_file(path, &mut |n| bar.inc(n))?;
    bar.finish_and_clear();
    Ok(FileId { name, sha256 })
}

fn print_summary(paths: &[PathBuf]) -> Result<()> {
    use std::io::Write;
    let all = paths.iter().map(|path| results::read(path)).collect::<Result<Vec<_>>>()?;
    // A reader that has gone away (`| head`) is no failure.
    let _ = std::io::stdout().write_all(summary::table(&all).as_bytes());
    Ok(())
}
