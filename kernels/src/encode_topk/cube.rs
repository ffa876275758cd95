//! TopK in CubeCL, for WGPU and CUDA: a dense product of as many rows as fit in a bounded tile of
//! scores, then one cube a row finds its best.
//!
//! The choice is that of f32 scores. Where tensor cores multiply f16, they multiply [rounded] rows,
//! and what the bounds on their scores leave open is decided in f32. Elsewhere the product is
//! cubek's in f32, without tensor cores: those would round f32 to TF32.

pub(crate) mod order;
pub(crate) mod radix;
pub(crate) mod rounded;
pub(crate) mod select;

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Slice};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::multi_level::Strategy as MultiLevel;
use cubek::matmul::multi_level::components::tile::TileMatmulKind;
use cubek::matmul::multi_level::routines::batch::simple::SimpleArgs;
use cubek::matmul::routine::BlueprintStrategy::Inferred;
use cubek::matmul::{launch::launch_ref, strategy::Strategy};
use cubek::std::InputBinding;

use super::EncodeTopK;
use crate::EncoderState;
use crate::gpu::{dims2, empty, floats, has_planes};
use radix::{rank, rank_left_over};
use rounded::{RoundedRows, Side};
use select::select_best;

/// Bytes of a tile of scores. WGPU adapters bind 128 MiB at least.
const TILE_BYTES: usize = 64 << 20;

/// The same with tensor cores, which such small products would not keep busy.
const LARGE_TILE_BYTES: usize = 512 << 20;

/// Most rows of a tile: one cube each, within every adapter's limit.
const TILE_ROWS: usize = 32_768;

impl EncodeTopK for CubeBackend {
    fn topk(
        x: CubeTensor,
        w_enc: CubeTensor,
        b_enc: CubeTensor,
        k: usize,
        _state: &EncoderState,
    ) -> (CubeTensor, CubeTensor) {
        let [n, _] = dims2(&x);
        let (x, w, bias) = (floats(x), floats(w_enc), floats(b_enc));
        let codes = Codes {
            values: empty(&x, [n, k], DType::F32),
            indices: empty(&x, [n, k], DType::I32),
        };
        if n > 0 {
            let product = match k <= select::MOST && multiplies_f16(&x.client) {
                true => Product::of_rounded(x, w),
                false => Product::exact(x, w),
            };
            product.for_each_tile(|first, _, scores| {
                if k > select::MOST {
                    rank(&scores, &bias, &codes, first);
                } else {
                    let left = select_best(&product, &scores, &bias, &codes, first);
                    rank_left_over(&product, &left, &scores, &bias, &codes, first);
                }
            });
        }
        (codes.values, codes.indices)
    }
}

/// `[n, k]` each.
pub(crate) struct Codes {
    pub values: CubeTensor,
    pub indices: CubeTensor,
}

/// `x · wᵀ`, a tile at a time.
pub(crate) struct Product {
    /// `[n, d]`
    pub x: CubeTensor,
    /// `[latents, d]`
    pub w: CubeTensor,
    /// What is multiplied in their place.
    pub rounded: Option<(RoundedRows, RoundedRows)>,
}

impl Product {
    pub(crate) fn exact(x: CubeTensor, w: CubeTensor) -> Self {
        Self {
            x,
            w,
            rounded: None,
        }
    }

    fn of_rounded(x: CubeTensor, w: CubeTensor) -> Self {
        let rounded = Some((
            rounded::round(&x, Side::Inputs),
            rounded::round(&w, Side::Latents),
        ));
        Self { x, w, rounded }
    }

    /// Calls `use_tile` with the first row, the number of rows and the scores `[rows, latents]`,
    /// without bias, of one tile after another.
    pub(crate) fn for_each_tile(&self, mut use_tile: impl FnMut(usize, usize, CubeTensor)) {
        let ([n, d], [latents, _]) = (dims2(&self.x), dims2(&self.w));
        let (x, w) = match &self.rounded {
            Some((x, w)) => (&x.numbers, &w.numbers),
            None => (&self.x, &self.w),
        };
        let bytes = match x.dtype {
            DType::F16 => LARGE_TILE_BYTES,
            _ => TILE_BYTES,
        };
        let most = (bytes / 4 / latents).clamp(1, TILE_ROWS);
        for first in (0..n).step_by(most) {
            let rows = most.min(n - first);
            let tile = match rows == n {
                true => x.clone(),
                false => {
                    let rows = Slice::from(first..first + rows);
                    CubeBackend::float_slice(x.clone(), &[rows, Slice::from(0..d)])
                }
            };
            use_tile(first, rows, product(tile, w.clone()));
        }
    }
}

/// Whether this device has what [`rounded`] rows need: f16 in tensor cores with sums in f32, and
/// planes.
fn multiplies_f16(client: &Client) -> bool {
    let features = &client.properties().features;
    let elem = |kind| ElemType::Float(kind);
    let (f16, f32) = (elem(FloatKind::F16), elem(FloatKind::F32));
    has_planes(client)
        && features
            .matmul
            .mma
            .iter()
            .any(|m| m.a_type == f16 && m.b_type == f16 && m.cd_type == f32)
}

/// `x · wᵀ` in f32.
pub(crate) fn product(x: CubeTensor, w: CubeTensor) -> CubeTensor {
    let ([rows, _], [latents, _]) = (dims2(&x), dims2(&w));
    let out = empty(&x, [rows, latents], DType::F32);
    let kind = ElemType::Float(match x.dtype {
        DType::F16 => FloatKind::F16,
        _ => FloatKind::F32,
    });
    let strategy = match x.dtype {
        DType::F16 => tensor_core_strategy(),
        _ => MultiLevel::SimpleUnit(Default::default()),
    };
    let w = CubeBackend::float_transpose(w);
    let client = x.client.clone();
    launch_ref(
        &Strategy::MultiLevel(strategy),
        &client,
        InputBinding::new(x.binding(), kind),
        InputBinding::new(w.binding(), kind),
        out.clone().binding(),
        &mut MatmulElems::from_globals(&MatmulGlobalElems {
            lhs: kind,
            rhs: kind,
            out: ElemType::Float(FloatKind::F32),
        }),
    )
    .unwrap_or_else(|error| panic!("the product [{rows}, {latents}]: {error:?}"));
    out
}

/// cubek's fastest product of f16 on an H200, or the one that `LAPIDARY_CUDA_PRODUCT` names, for
/// comparisons.
fn tensor_core_strategy() -> MultiLevel {
    match std::env::var("LAPIDARY_CUDA_PRODUCT").as_deref() {
        Ok("simple-cmma") => MultiLevel::SimpleCyclicCmma(Inferred(SimpleArgs {
            multi_rows: true,
            tile_matmul: TileMatmulKind::Cmma,
        })),
        Ok("tma-cmma") => MultiLevel::SimpleTmaCmma(Inferred(SimpleArgs {
            multi_rows: true,
            tile_matmul: TileMatmulKind::Cmma,
        })),
        Ok("tma-mma") => MultiLevel::SimpleTmaMma(Inferred(SimpleArgs {
            multi_rows: true,
            tile_matmul: TileMatmulKind::Mma,
        })),
        Ok("double-tma-mma") => MultiLevel::DoubleTmaMma(Default::default()),
        Ok("specialized-tma-cmma") => MultiLevel::SpecializedTmaCmma(Inferred(().into())),
        Ok("specialized-tma-mma") => MultiLevel::SpecializedTmaMma(Inferred(().into())),
        Err(_) => MultiLevel::DoubleCyclicMma(Default::default()),
        Ok(other) => panic!(
            "LAPIDARY_CUDA_PRODUCT: found {other}, expected simple-cmma, tma-cmma, tma-mma, \
             double-tma-mma, specialized-tma-cmma or specialized-tma-mma"
        ),
    }
}
