//! The command line of `tinygptv-convert`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use tinygptv_convert::output::{remove_temporaries, Progress};
use tinygptv_convert::phi2::DecoderOptions;
use tinygptv_convert::plan::PlanOptions;
use tinygptv_convert::prompts::Prompts;
use tinygptv_convert::result::ResultOptions;
use tinygptv_convert::synth::{synth, Dimensions, SynthOptions};
use tinygptv_convert::types::{DecoderType, VisionType};
use tinygptv_convert::vision::VisionOptions;
use tinygptv_convert::{convert, inspect, Inputs};

/// Convert the official TinyGPT-V checkpoints to the decoder and vision GGUF files that tinygptv loads.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    // Beside each other: clap takes an optional group of arguments for absent when another is nested in it.
    #[command(flatten)]
    convert: Option<ConvertArgs>,
    #[command(flatten)]
    results: Option<ResultArgs>,
}

#[derive(Subcommand)]
enum Command {
    /// Print a GGUF file's metadata and tensors.
    Inspect {
        /// The .gguf file.
        file: PathBuf,
    },
    /// Make a pair of random weights, for benchmarks and load tests.
    Synth(Box<SynthArgs>),
}

/// Which files to write, and how.
#[derive(Args)]
struct ResultArgs {
    /// Types of the decoder files, separated by commas: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0, …
    #[arg(long, value_name = "TYPE", value_delimiter = ',', default_value = "q4_k_m")]
    decoder_type: Vec<DecoderType>,
    /// Types of the vision files, separated by commas: f32, f16, bf16, q8_0.
    #[arg(long, value_name = "TYPE", value_delimiter = ',', default_value = "q8_0")]
    vision_type: Vec<VisionType>,
    /// Folder to write to.
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// First part of the file names [default: tinygptv-stage<N>, or tinygptv-synth-stage<N>].
    #[arg(long)]
    name: Option<String>,
    /// Print what would be written, and from what; write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Replace files that exist.
    #[arg(long)]
    force: bool,
    /// Print nothing but warnings and errors.
    #[arg(long, conflicts_with = "verbose")]
    quiet: bool,
    /// Print what llama.cpp's quantiser says, too.
    #[arg(long)]
    verbose: bool,
    /// Threads that round numbers, and draw them [default: all cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

#[derive(Args)]
struct SynthArgs {
    /// TinyGPT-V's own size.
    #[arg(long, required_unless_present = "dims")]
    full: bool,
    /// Another size: NAME=N,NAME=N,…; what is not named is full size. Names: vocabulary, context, width, layers, heads,
    /// rotary, mlp, patch, grid, vit-width, vit-blocks, vit-heads, vit-mlp, queries, qf-width, qf-layers, qf-heads, qf-mlp,
    /// projection.
    #[arg(long, value_name = "LIST", conflicts_with = "full")]
    dims: Option<Dimensions>,
    /// Training stage that it passes for: prompts and the side of a picture.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4))]
    stage: u32,
    /// Side of the picture in pixels [default: as in a conversion].
    #[arg(long, value_name = "N")]
    image_size: Option<usize>,
    /// Channels before each matrix that carry about a hundred times as much as the others; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 4)]
    outliers: usize,
    /// Another seed, other numbers.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    results: ResultArgs,
}

#[derive(Args)]
struct ConvertArgs {
    /// Folder of Phi-2: config.json, tokenizer files, and safetensors or pytorch_model*.bin weights.
    #[arg(long, value_name = "DIR")]
    phi2: PathBuf,
    /// The ViT: eva_vit_g.pth.
    #[arg(long, value_name = "FILE")]
    vit: PathBuf,
    /// BLIP-2's Q-Former: blip2_pretrained_flant5xxl.pth.
    #[arg(long, value_name = "FILE")]
    qformer: PathBuf,
    /// What TinyGPT-V trained: TinyGPT-V_for_Stage*.pth.
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Training stage of the checkpoint.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4))]
    stage: u32,
    /// Side of the picture in pixels [default: 448 for stage 4, 224 for the others].
    #[arg(long, value_name = "N")]
    image_size: Option<usize>,
    /// Attention heads of the ViT [default: 16 at full size, otherwise 64 wide].
    #[arg(long, value_name = "N")]
    vit_heads: Option<usize>,
    /// Blocks of the ViT to use [default: 39 at full size, otherwise all].
    #[arg(long, value_name = "N")]
    vit_blocks: Option<usize>,
    /// Attention heads of the Q-Former [default: 64 wide].
    #[arg(long, value_name = "N")]
    qformer_heads: Option<usize>,
    /// Attention heads of the decoder [default: from config.json].
    #[arg(long, value_name = "N")]
    decoder_heads: Option<usize>,
    /// Rotated dimensions of each decoder head [default: from config.json].
    #[arg(long, value_name = "N")]
    rotary_dims: Option<usize>,
    /// LoRA's alpha [default: from the checkpoint's configuration, otherwise 16].
    #[arg(long, value_name = "X")]
    lora_alpha: Option<f64>,
    /// Prompt template used when the caller names none [default: instruct for stage 4, chat for the others].
    #[arg(long, value_name = "NAME")]
    default_template: Option<String>,
    /// Add a prompt template; TURN is a turn's text with {images} and {question}. May be repeated.
    #[arg(long, value_name = "NAME=TURN")]
    add_template: Vec<String>,
    /// Leave out tensors that have no place in the model, instead of stopping.
    #[arg(long)]
    allow_unknown: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever the causes' own texts look like.
            eprintln!("error: {}", format!("{error:#}").replace(['\n', '\r'], " "));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match (cli.command, cli.convert.zip(cli.results)) {
        (Some(Command::Inspect { file }), _) => print(&inspect::describe(&file)?),
        (Some(Command::Synth(args)), _) => return run_synth(*args),
        (None, Some((args, results))) => return run_convert(args, results),
        (None, None) => {
            Cli::command().error(ErrorKind::MissingRequiredArgument, "say what to convert; see --help").exit()
        }
    }
    Ok(())
}

fn run_convert(args: ConvertArgs, results: ResultArgs) -> Result<()> {
    let prompts = Prompts::new(args.stage, &args.add_template, args.default_template.as_deref())
        .unwrap_or_else(|e| Cli::command().error(ErrorKind::ValueValidation, e).exit());
    let inputs = Inputs { phi2: args.phi2, vit: args.vit, qformer: args.qformer, checkpoint: args.checkpoint };
    let name = format!("tinygptv-stage{}", args.stage);
    write_results(results, name, |results, progress| {
        let plan = PlanOptions {
            name: results.name.clone(),
            stage: args.stage,
            decoder: DecoderOptions {
                heads: args.decoder_heads,
                rotary: args.rotary_dims,
                lora_alpha: args.lora_alpha,
            },
            vision: VisionOptions {
                image_size: args.image_size,
                vit_heads: args.vit_heads,
                vit_blocks: args.vit_blocks,
                qformer_heads: args.qformer_heads,
            },
            prompts,
            allow_unknown: args.allow_unknown,
        };
        convert(&inputs, &plan, results, progress)
    })
}

fn run_synth(args: SynthArgs) -> Result<()> {
    let options = SynthOptions {
        dimensions: args.dims.unwrap_or_else(Dimensions::full),
        stage: args.stage,
        image_size: args.image_size,
        outliers: args.outliers,
        seed: args.seed,
    };
    let name = format!("tinygptv-synth-stage{}", args.stage);
    write_results(args.results, name, |results, progress| synth(&options, results, progress))
}

/// What both ways of making a pair have in common.
fn write_results(
    args: ResultArgs,
    default_name: String,
    make: impl FnOnce(&ResultOptions, &Progress) -> Result<String>,
) -> Result<()> {
    let name = args.name.unwrap_or(default_name);
    if name.is_empty() || name.contains(['/', '\\']) {
        Cli::command().error(ErrorKind::ValueValidation, "--name is part of a file name; use no separators").exit();
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let options = ResultOptions {
        name,
        decoder_types: without_repeats(args.decoder_type),
        vision_types: without_repeats(args.vision_type),
        out: args.out,
        force: args.force,
        dry_run: args.dry_run,
        verbose: args.verbose,
        threads: args.threads.map_or(cores, usize::from),
    };
    ctrlc::set_handler(|| {
        // Held to the end, so that no new file is made meanwhile.
        let _files = remove_temporaries();
        eprintln!("error: interrupted; nothing was written");
        std::process::exit(130);
    })?;
    let text = make(&options, &Progress::new(args.quiet))?;
    if !args.quiet || options.dry_run {
        print(&text);
    }
    Ok(())
}

fn without_repeats<T: PartialEq + Copy>(types: Vec<T>) -> Vec<T> {
    let mut kept = Vec::new();
    for ty in types {
        if !kept.contains(&ty) {
            kept.push(ty);
        }
    }
    kept
}

/// Prints to stdout; a reader that has gone away (`| head`) is no failure.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
