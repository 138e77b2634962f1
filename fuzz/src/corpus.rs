//! The committed corpus of a target: many small inputs in one file, each behind its length as two bytes, little-endian.

/// Most bytes of a packed corpus.
const LARGEST: usize = 24 << 10;

/// Packs the smallest inputs, as many as fit.
pub fn pack(mut inputs: Vec<Vec<u8>>) -> Vec<u8> {
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    let mut packed = Vec::new();
    for input in inputs {
        let Ok(length) = u16::try_from(input.len()) else { break };
        if packed.len() + 2 + input.len() > LARGEST {
            break;
        }
        packed.extend_from_slice(&length.to_le_bytes());
        packed.extend_from_slice(&input);
    }
    packed
}

/// The inputs of a packed corpus.
///
/// # Panics
/// When the last one is cut off.
pub fn unpack(mut packed: &[u8]) -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    while let Some((length, rest)) = packed.split_first_chunk() {
        let (input, rest) = rest.split_at(u16::from_le_bytes(*length).into());
        inputs.push(input.to_vec());
        packed = rest;
    }
    assert!(packed.is_empty(), "half a length");
    inputs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_come_back() {
        let inputs = vec![vec![1; 300], vec![], vec![2, 3], vec![4; 70_000], vec![5; LARGEST - 100]];
        let packed = pack(inputs.clone());
        assert_eq!(unpack(&packed), [inputs[1].clone(), inputs[2].clone(), inputs[0].clone()]);
    }

    #[test]
    #[should_panic]
    fn what_is_cut_off_is_noticed() {
        unpack(&[3, 0, 1, 2]);
    }
}
