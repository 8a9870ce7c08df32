//! Which layers go to devices with memory of their own, and what they take there. Pure.
//!
//! llama.cpp moves the last layers, the output first of all, and spreads them over the devices by the memory
//! that each has free (`llama_model_base::load_tensors`). The embedding stays with the CPU.

use yi_gguf::Gguf;

use super::geometry::Geometry;
use super::{N_CTX_STEP, context_memory, tensor_bytes};
use crate::llama::ContextParams;

/// What is left free on a device: for its driver, the libraries' own buffers, and the screen. As in llama.cpp.
pub const DEVICE_MARGIN: u64 = 1 << 30;

/// Bytes of a model's parts, as llama.cpp moves them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Each layer's weights, and its keys and values.
    layers: Vec<Part>,
    /// The output's norm and matrix, which may be the embedding's once more.
    output: Part,
    /// The embedding and all else that stays.
    rest: u64,
    /// Intermediate results, on each device that computes.
    compute: u64,
}

/// Bytes of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Part {
    /// In the file.
    weights: u64,
    /// Beside those: a copy of the embedding.
    copied: u64,
    cache: u64,
}

impl Part {
    fn bytes(&self) -> u64 {
        [self.weights, self.copied, self.cache]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// Where a model's parts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Layers on devices, the output counted as one, as `-ngl` counts them.
    pub n_layers: u32,
    /// All that there are.
    pub n_layers_max: u32,
    /// Bytes on each device.
    pub on_devices: Vec<u64>,
    /// Weights that have left the host, in bytes.
    pub weights: u64,
    /// Keys and values that have left the host, in bytes.
    pub cache: u64,
    /// Weights that stay on the host although nothing multiplies with them: the embedding.
    pub rest: u64,
}

impl Placement {
    /// The first device that has less free than its part takes: its place, and what it takes.
    #[must_use]
    pub fn too_much(&self, free: &[u64]) -> Option<(usize, u64)> {
        let needed = self.on_devices.iter().copied().enumerate();
        let mut needed = needed.zip(free);
        needed.find_map(|(needed, &free)| (needed.1 > free).then_some(needed))
    }
}

impl Parts {
    /// Of a file, with such a context. Without `geometry` the context's parts are unknown, and not counted.
    #[must_use]
    pub fn new(headers: &[Gguf], geometry: Option<&Geometry>, context: &ContextParams) -> Self {
        let tensors = || headers.iter().flat_map(Gguf::tensors);
        let layer_of = |name: &str| {
            let (layer, _) = name.strip_prefix("blk.")?.split_once('.')?;
            // A file's names must not choose what is allocated.
            let layer = layer.parse::<usize>().ok();
            layer.filter(|&layer| layer < yi_gguf::MAX_LAYERS as usize)
        };
        let in_file = tensors().filter_map(|t| layer_of(t.name())).max();
        let in_file = in_file.map_or(0, |last| last.saturating_add(1));
        let n_layers = geometry.map_or(in_file, |geometry| geometry.n_kv_heads.len());
        let n_ctx = u64::from(context.n_ctx).next_multiple_of(N_CTX_STEP);
        let mut layers = vec![Part::default(); n_layers];
        for (i, layer) in layers.iter_mut().enumerate() {
            layer.cache = geometry.map_or(0, |geometry| {
                geometry.layer_kv_bytes(i, n_ctx, context.type_k, context.type_v)
            });
        }
        let (mut output, mut rest) = (Part::default(), 0u64);
        for tensor in tensors() {
            let part = match layer_of(tensor.name()) {
                Some(layer) => layers.get_mut(layer).map(|part| &mut part.weights),
                None if is_output(tensor.name()) => Some(&mut output.weights),
                None => None,
            };
            let sum = part.unwrap_or(&mut rest);
            *sum = sum.saturating_add(tensor.n_bytes());
        }
        if !tensors().any(|tensor| tensor.name() == "output.weight") {
            output.copied = tensor_bytes(headers, "token_embd.weight");
        }
        Parts {
            layers,
            output,
            rest,
            compute: geometry.map_or(0, |geometry| context_memory(geometry, context).compute),
        }
    }

    /// All layers, the output counted as one.
    #[must_use]
    pub fn n_layers_max(&self) -> u32 {
        u32::try_from(self.layers.len() + 1).unwrap_or(u32::MAX)
    }

    /// Where the parts are with so many layers on devices that have this much free, in bytes.
    #[must_use]
    pub fn place(&self, n_layers: u32, free: &[u64]) -> Placement {
        let n_layers_max = self.n_layers_max();
        let n_layers = if free.is_empty() {
            0
        } else {
            n_layers.min(n_layers_max)
        };
        let mut placement = Placement {
            n_layers,
            n_layers_max,
            on_devices: vec![0; free.len()],
            weights: 0,
            cache: 0,
            rest: self.rest,
        };
        let splits = splits(free);
        let moved = self.layers.iter().chain([&self.output]);
        let moved = moved.skip((n_layers_max - n_layers) as usize);
        for (i, part) in moved.enumerate() {
            // In single precision, as there: the same layer goes to the same device.
            let share = i as f32 / n_layers as f32;
            let device = splits.partition_point(|&split| split <= share);
            let device = device.min(free.len() - 1);
            let bytes = &mut placement.on_devices[device];
            if *bytes == 0 {
                *bytes = self.compute;
            }
            *bytes = bytes.saturating_add(part.bytes());
            placement.weights = placement.weights.saturating_add(part.weights);
            placement.cache = placement.cache.saturating_add(part.cache);
        }
        placement
    }

    /// The most layers that fit when this much stays free on each device, in bytes.
    #[must_use]
    pub fn fit(&self, free: &[u64], margin: u64) -> Placement {
        let usable: Vec<u64> = free.iter().map(|f| f.saturating_sub(margin)).collect();
        // What llama.cpp goes by is what is free, and not what is usable.
        (1..=self.n_layers_max())
            .rev()
            .map(|n_layers| self.place(n_layers, free))
            .find(|placement| placement.too_much(&usable).is_none())
            .unwrap_or_else(|| self.place(0, free))
    }
}

fn is_output(name: &str) -> bool {
    name == "output.weight" || name.starts_with("output.") || name.starts_with("output_norm.")
}

/// Up to which share of the layers each device has them.
fn splits(free: &[u64]) -> Vec<f32> {
    let mut sum = 0.0f32;
    let sums: Vec<f32> = free
        .iter()
        .map(|&free| {
            sum += free as f32;
            sum
        })
        .collect();
    sums.into_iter().map(|split| split / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// Ten layers of 100 and a cache of 10 each, an output of 50, and 20 to compute.
    fn parts() -> Parts {
        let layer = Part {
            weights: 100,
            copied: 0,
            cache: 10,
        };
        let output = Part {
            weights: 50,
            ..Part::default()
        };
        Parts {
            layers: vec![layer; 10],
            output,
            rest: 70,
            compute: 20,
        }
    }

    #[test]
    fn the_output_goes_first_and_then_the_last_layers() {
        let placed = parts().place(1, &[1000]);
        assert_eq!(placed.on_devices, [50 + 20]);
        assert_eq!((placed.weights, placed.cache), (50, 0));
        let placed = parts().place(4, &[1000]);
        assert_eq!(placed.on_devices, [50 + 3 * 110 + 20]);
        assert_eq!((placed.weights, placed.cache), (350, 30));
        // More than there are is all.
        let all = parts().place(99, &[10_000]);
        assert_eq!((all.n_layers, all.n_layers_max), (11, 11));
        assert_eq!((all.weights, all.cache, all.rest), (1050, 100, 70));
        // Without devices, nothing moves.
        assert_eq!(parts().place(99, &[]).n_layers, 0);
        assert_eq!(parts().place(0, &[1000]).on_devices, [0]);
    }

    #[test]
    fn as_many_layers_as_fit_and_not_one_more() {
        for free in 0..1400 {
            let placed = parts().fit(&[free], 0);
            assert!(placed.on_devices[0] <= free, "{free}: {placed:?}");
            if placed.n_layers < placed.n_layers_max {
                let more = parts().place(placed.n_layers + 1, &[free]);
                assert!(more.on_devices[0] > free, "{free}: {more:?}");
            }
        }
        assert_eq!(parts().fit(&[1170], 0).n_layers, 11);
        assert_eq!(parts().fit(&[1169], 0).n_layers, 10);
        assert_eq!(parts().fit(&[69], 0).n_layers, 0);
        // The margin stays free.
        assert_eq!(parts().fit(&[1170 + GIB], GIB).n_layers, 11);
        assert_eq!(parts().fit(&[1169 + GIB], GIB).n_layers, 10);
        assert_eq!(parts().fit(&[GIB], 2 * GIB).n_layers, 0);
    }

    #[test]
    fn devices_share_layers_by_what_they_have_free() {
        let placed = parts().place(11, &[3000, 1000]);
        // Of 11 parts those below three quarters: layers 0 to 8.
        assert_eq!(placed.on_devices, [9 * 110 + 20, 110 + 50 + 20]);
        // One that cannot take its share holds all the others back.
        let fit = parts().fit(&[800, 100], 0);
        assert_eq!(fit.too_much(&[800, 100]), None);
        assert!(fit.n_layers < 9 && fit.n_layers > 5, "{fit:?}");
        // One without free memory has none.
        assert_eq!(parts().place(11, &[5000, 0]).on_devices, [1170, 0]);
        assert_eq!(parts().place(11, &[0, 5000]).on_devices, [0, 1170]);
        // Nobody has: llama.cpp divides 0 by 0.
        assert_eq!(parts().fit(&[0, 0], 0).n_layers, 0);
    }

    #[test]
    fn what_is_too_much_is_told_by_device() {
        let placed = parts().place(11, &[600, 600]);
        assert_eq!(placed.on_devices, [6 * 110 + 20, 4 * 110 + 50 + 20]);
        assert_eq!(placed.too_much(&[680, 509]), Some((1, 510)));
        assert_eq!(placed.too_much(&[680, 510]), None);
    }
}
