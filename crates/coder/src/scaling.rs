//! How the activations of training were normalized, which a finished coder has in its weights.

/// x' = (x − mean) · scale, for the activations at one hook point.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// What was subtracted from each dimension.
    pub mean: Vec<f32>,
    /// What each dimension was then multiplied with.
    pub scale: f32,
}

/// How the activations that a coder reads and reconstructs were normalized, hook point by hook
/// point.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// Those that it reads.
    pub read: Vec<Affine>,
    /// Those that it reconstructs.
    pub written: Vec<Affine>,
}

impl Scaling {
    /// The mean of each dimension that is read.
    pub(crate) fn mean_read(&self) -> Vec<f32> {
        means(&self.read)
    }

    /// The mean of each dimension that is reconstructed.
    pub(crate) fn mean_written(&self) -> Vec<f32> {
        means(&self.written)
    }

    /// The factor of each dimension that is read.
    pub(crate) fn scale_read(&self) -> Vec<f64> {
        scales(&self.read)
    }

    /// The factor of each dimension that is reconstructed.
    pub(crate) fn scale_written(&self) -> Vec<f64> {
        scales(&self.written)
    }

    /// The factor of the first hook point that is reconstructed: the unit of codes.
    pub(crate) fn unit(&self) -> f64 {
        f64::from(self.written[0].scale)
    }
}

fn means(parts: &[Affine]) -> Vec<f32> {
    parts.iter().flat_map(|part| &part.mean).copied().collect()
}

fn scales(parts: &[Affine]) -> Vec<f64> {
    let of = |part: &Affine| vec![f64::from(part.scale); part.mean.len()];
    parts.iter().flat_map(of).collect()
}
