//! Sizes of a synthetic model: TinyGPT-V's own, or others.

use std::fmt;
use std::str::FromStr;

use serde_json::{json, Value as Json};

/// Sizes of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Dimensions {
    pub vocabulary: usize,
    pub context: usize,
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub rotary: usize,
    pub mlp: usize,
    pub patch: usize,
    /// Patches along a side that the position embedding is made for.
    pub grid: usize,
    pub vit_width: usize,
    pub vit_blocks: usize,
    pub vit_heads: usize,
    pub vit_mlp: usize,
    pub queries: usize,
    pub qf_width: usize,
    pub qf_layers: usize,
    pub qf_heads: usize,
    pub qf_mlp: usize,
    /// Width between the two projections.
    pub projection: usize,
}

/// Largest value of any dimension: far beyond every real model, and products of three stay in 64 bits.
const LARGEST: usize = 1 << 20;

impl Dimensions {
    /// TinyGPT-V's own sizes.
    pub fn full() -> Dimensions {
        Dimensions {
            vocabulary: 51200,
            context: 2048,
            width: 2560,
            layers: 32,
            heads: 32,
            rotary: 32,
            mlp: 10240,
            patch: 14,
            grid: 16,
            vit_width: 1408,
            vit_blocks: 39,
            vit_heads: 16,
            vit_mlp: 6144,
            queries: 32,
            qf_width: 768,
            qf_layers: 12,
            qf_heads: 12,
            qf_mlp: 3072,
            projection: 4096,
        }
    }

    fn named(&mut self) -> [(&'static str, &mut usize); 19] {
        [
            ("vocabulary", &mut self.vocabulary),
            ("context", &mut self.context),
            ("width", &mut self.width),
            ("layers", &mut self.layers),
            ("heads", &mut self.heads),
            ("rotary", &mut self.rotary),
            ("mlp", &mut self.mlp),
            ("patch", &mut self.patch),
            ("grid", &mut self.grid),
            ("vit-width", &mut self.vit_width),
            ("vit-blocks", &mut self.vit_blocks),
            ("vit-heads", &mut self.vit_heads),
            ("vit-mlp", &mut self.vit_mlp),
            ("queries", &mut self.queries),
            ("qf-width", &mut self.qf_width),
            ("qf-layers", &mut self.qf_layers),
            ("qf-heads", &mut self.qf_heads),
            ("qf-mlp", &mut self.qf_mlp),
            ("projection", &mut self.projection),
        ]
    }

    /// What Phi-2's config.json would say.
    pub fn config(&self) -> Json {
        let end = super::vocabulary::end_of_text(self.vocabulary);
        json!({
            "num_attention_heads": self.heads, "rotary_dim": self.rotary, "max_position_embeddings": self.context,
            "rope_theta": 10000.0, "layer_norm_eps": 1e-5, "hidden_act": "gelu_new",
            "bos_token_id": end, "eos_token_id": end, "unk_token_id": end
        })
    }
}

/// `NAME=N,NAME=N,…`: the full size except for what is named.
impl FromStr for Dimensions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut d = Dimensions::full();
        for item in text.split(',') {
            let (name, number) = item.split_once('=').ok_or_else(|| format!("'{item}' is not NAME=N"))?;
            let number: usize = number.parse().map_err(|_| format!("{name} = '{number}' is no number"))?;
            if !(1..=LARGEST).contains(&number) {
                return Err(format!("{name} = {number} is not between 1 and {LARGEST}"));
            }
            let mut known = d.named();
            match known.iter_mut().find(|(known, _)| *known == name) {
                Some((_, value)) => **value = number,
                None => {
                    let names: Vec<&str> = known.iter().map(|k| k.0).collect();
                    return Err(format!("'{name}' is none of {}", names.join(", ")));
                }
            }
        }
        for (what, heads, width) in
            [("heads", d.heads, d.width), ("vit-heads", d.vit_heads, d.vit_width), ("qf-heads", d.qf_heads, d.qf_width)]
        {
            if !width.is_multiple_of(heads) {
                return Err(format!("{what} = {heads} do not divide the width {width}"));
            }
        }
        Ok(d)
    }
}

impl fmt::Display for Dimensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut own = self.clone();
        let items: Vec<String> = own.named().iter().map(|(name, n)| format!("{name}={n}")).collect();
        f.write_str(&items.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_is_full_size() {
        let d: Dimensions = "width=64,heads=2,vit-blocks=1".parse().unwrap();
        assert_eq!((d.width, d.heads, d.vit_blocks, d.vit_width), (64, 2, 1, 1408));
        assert_eq!(d.to_string().parse::<Dimensions>().unwrap(), d);
    }

    #[test]
    fn mistakes_are_named() {
        let refuse = |text: &str| text.parse::<Dimensions>().unwrap_err();
        assert!(refuse("width").contains("NAME=N"));
        assert!(refuse("depth=3").contains("none of vocabulary, context"));
        assert!(refuse("layers=0").contains("between 1"));
        assert!(refuse("layers=99999999999999999999").contains("no number"));
        assert!(refuse("heads=7").contains("do not divide"));
    }
}
