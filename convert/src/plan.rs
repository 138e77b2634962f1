//! What will be written: both files' metadata and tensors, before any number is read.

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::gguf_writer::{Metadata, TensorHeader, Value};
use crate::phi2::{Base, DecoderOptions};
use crate::prompts::Prompts;
use crate::quantize::{Type, Q8_0_BLOCK};
use crate::recipe::Recipe;
use crate::source::{hex, Role, Sources};
use crate::vision::VisionOptions;
use crate::{phi2, vision};

/// How a tensor's storage type follows from the file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Weights of a large linear layer: of the file's type.
    Matrix,
    /// Weights whose rows are no whole blocks: never quantised.
    Unquantized,
    /// Norms, biases, positions, the folded projection: always F32.
    Small,
}

impl Kind {
    /// The storage type of a tensor of this kind and shape in a file of type `file`.
    pub fn storage(self, file: Type, shape: &[usize]) -> Type {
        let blocks = shape.last().is_some_and(|row| row % Q8_0_BLOCK == 0);
        match self {
            Kind::Small => Type::F32,
            Kind::Matrix if file == Type::Q8_0 && blocks => Type::Q8_0,
            _ if file == Type::Q8_0 => Type::F16,
            _ => file,
        }
    }
}

/// One tensor of a result.
pub struct PlannedTensor {
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    pub kind: Kind,
    pub recipe: Recipe,
}

impl PlannedTensor {
    /// A tensor of the plan.
    pub fn new(name: impl Into<String>, shape: &[usize], kind: Kind, recipe: Recipe) -> PlannedTensor {
        PlannedTensor { name: name.into(), shape: shape.to_vec(), kind, recipe }
    }

    /// Its header in a file of one type.
    pub fn header(&self, file: Type) -> TensorHeader {
        TensorHeader { name: self.name.clone(), shape: self.shape.clone(), ty: self.kind.storage(file, &self.shape) }
    }
}

/// One file of the result.
pub struct FilePlan {
    /// Without what depends on the chosen type.
    pub metadata: Metadata,
    pub tensors: Vec<PlannedTensor>,
}

impl FilePlan {
    /// How many matrices cannot be of the file's type, because their rows are no whole blocks.
    pub fn fallbacks(&self, file: Type) -> usize {
        self.tensors.iter().filter(|t| t.kind == Kind::Matrix && t.kind.storage(file, &t.shape) != file).count()
    }

    /// The metadata in a file of one type.
    pub fn metadata(&self, file_type: u32) -> Metadata {
        [self.metadata.clone(), Metadata::from([of_type(file_type), quantization_version()])].concat()
    }

    /// The same in the order that llama.cpp's quantiser leaves.
    pub fn quantized_metadata(&self, file_type: u32) -> Metadata {
        [self.metadata.clone(), Metadata::from([quantization_version(), of_type(file_type)])].concat()
    }
}

fn of_type(file_type: u32) -> (String, Value) {
    ("general.file_type".into(), Value::U32(file_type))
}

fn quantization_version() -> (String, Value) {
    ("general.quantization_version".into(), Value::U32(2))
}

/// The whole conversion.
pub struct Plan {
    pub decoder: FilePlan,
    pub vision: FilePlan,
    /// What the user may want to know.
    pub notes: Vec<String>,
    /// What the user should look at.
    pub warnings: Vec<String>,
}

/// What the plan depends on beside the files.
pub struct PlanOptions {
    /// `general.name`.
    pub name: String,
    /// Training stage, 1 to 4.
    pub stage: u32,
    pub decoder: DecoderOptions,
    pub vision: VisionOptions,
    pub prompts: Prompts,
    /// Leave tensors out that have no place in the model.
    pub allow_unknown: bool,
}

/// Something that a result is made from.
pub struct Ingredient {
    /// Which input it belongs to.
    pub role: String,
    /// File name.
    pub name: String,
    /// SHA-256 in hexadecimal.
    pub hash: String,
}

/// Makes the plan. Marks in `sources` what is used.
pub fn make(sources: &mut Sources, base: &Base, options: &PlanOptions) -> Result<Plan> {
    let mut notes = Vec::new();
    let mut warnings = Vec::new();
    let decoder = phi2::plan(sources, base, &options.decoder, &mut notes, &mut warnings)?;
    let vision = vision::plan(sources, &options.vision, options.stage, decoder.width, &mut notes)?;
    let (ignored, left_out) = sources.account_for_rest(vision.blocks, options.allow_unknown)?;
    notes.splice(0..0, sources.notes.iter().cloned());
    notes.extend(ignored);
    warnings.extend(left_out);
    if let Some((_, path)) = sources.files().iter().find(|(role, _)| *role == Role::Stage) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let named =
            name.split_once("stage").and_then(|(_, rest)| rest.trim_start_matches(['_', '-', ' ']).chars().next());
        if let Some(named) = named.and_then(|c| c.to_digit(10)).filter(|&d| d != options.stage) {
            warnings.push(format!("the checkpoint's name says stage {named}, --stage says {}", options.stage));
        }
    }

    let general = |architecture: &str, kind: &str| {
        vec![
            ("general.architecture".to_owned(), architecture.into()),
            ("general.type".to_owned(), kind.into()),
            ("general.name".to_owned(), options.name.as_str().into()),
        ]
    };
    let assemble = |mut metadata: Metadata, own: Metadata| {
        metadata.extend(own);
        metadata.push(("tinygptv.stage".into(), Value::U32(options.stage)));
        metadata
    };
    let mut vision_metadata = vision.metadata;
    vision_metadata.extend(options.prompts.metadata());
    Ok(Plan {
        decoder: FilePlan { metadata: assemble(general("phi2", "model"), decoder.metadata), tensors: decoder.tensors },
        vision: FilePlan { metadata: assemble(general("clip", "mmproj"), vision_metadata), tensors: vision.tensors },
        notes,
        warnings,
    })
}

impl Plan {
    /// Adds what tells this result from others: what it is made from, and the id that makes the two files a pair.
    pub fn seal(&mut self, ingredients: &[Ingredient], stage: u32) {
        let mut id = Sha256::new();
        id.update(format!("tinygptv pair 1, stage {stage}\n"));
        for i in ingredients {
            id.update(format!("{} {}\n", i.role, i.hash));
        }
        let id = hex(&id.finalize());
        let texts =
            |pick: fn(&Ingredient) -> &String| Value::StringArray(ingredients.iter().map(pick).cloned().collect());
        for file in [&mut self.decoder, &mut self.vision] {
            file.metadata.push(("tinygptv.pair_id".into(), id.as_str().into()));
            file.metadata.push(("tinygptv.source.names".into(), texts(|i| &i.name)));
            file.metadata.push(("tinygptv.source.sha256".into(), texts(|i| &i.hash)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_follow_from_the_kind() {
        let storage = |kind: Kind, file, shape: &[usize]| kind.storage(file, shape);
        assert_eq!(storage(Kind::Matrix, Type::Q8_0, &[3, 64]), Type::Q8_0);
        assert_eq!(storage(Kind::Matrix, Type::Q8_0, &[3, 65]), Type::F16);
        assert_eq!(storage(Kind::Unquantized, Type::Q8_0, &[3, 64]), Type::F16);
        assert_eq!(storage(Kind::Unquantized, Type::BF16, &[3, 64]), Type::BF16);
        assert_eq!(storage(Kind::Small, Type::Q8_0, &[64]), Type::F32);
        let tensor = |shape: &[usize]| PlannedTensor::new("t", shape, Kind::Matrix, Recipe::Fill(0.0));
        let plan = FilePlan { metadata: Vec::new(), tensors: vec![tensor(&[3, 64]), tensor(&[3, 65])] };
        assert_eq!((plan.fallbacks(Type::Q8_0), plan.fallbacks(Type::F16)), (1, 0));
    }
}
