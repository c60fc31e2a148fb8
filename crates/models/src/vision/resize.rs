use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// How a map is made larger or smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// The token that the centre of the new one lies in, or begins.
    Nearest,
    /// Between four tokens, whose centres lie as those of pixels do.
    #[default]
    Bilinear,
    /// Between four tokens, with the tokens of the corners in place.
    BilinearCorners,
}

impl Resize {
    /// Maps of `to` rows and columns.
    ///
    /// # Shapes
    /// - `x`: `[B, Y, X, D]`; output: `[B, Y', X', D]`
    pub fn apply(self, x: Tensor<4>, to: [usize; 2]) -> Tensor<4> {
        let [b, y, columns, d] = x.dims();
        let device = x.device();
        if [y, columns] == to {
            return x;
        }
        if x.dims().contains(&0) {
            return Tensor::zeros([b, to[0], to[1], d], (&device, x.dtype()));
        }
        // Rows first: `[B, X·D]` vectors per row, then columns.
        let x = self.weights(y, to[0], &device).unsqueeze::<3>().matmul(x.reshape([b, y, columns * d]));
        let x = x.reshape([b * to[0], columns, d]);
        self.weights(columns, to[1], &device).unsqueeze::<3>().matmul(x).reshape([b, to[0], to[1], d])
    }

    /// The weight of each of `from` tokens for each of `to`. `[to, from]`
    fn weights(self, from: usize, to: usize, device: &Device) -> Tensor<2> {
        let mut weights = vec![0.0_f32; to * from];
        for (i, row) in weights.chunks_exact_mut(from).enumerate() {
            let place = match self {
                Self::Nearest => (i * from / to) as f64,
                Self::Bilinear => ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0),
                Self::BilinearCorners if to == 1 => 0.0,
                Self::BilinearCorners => i as f64 * (from - 1) as f64 / (to - 1) as f64,
            };
            let before = (place as usize).min(from - 1);
            let part = (place - before as f64) as f32;
            row[before] += 1.0 - part;
            row[(before + 1).min(from - 1)] += part;
        }
        Tensor::from_data(TensorData::new(weights, [to, from]), device)
    }
}

#[cfg(test)]
mod tests {
    use regard_testkit::{assert_close, cpu};

    use super::*;

    fn row(values: &[f32]) -> Tensor<4> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, 1, values.len(), 1]), &cpu())
    }

    #[test]
    fn tokens_lie_where_pytorch_puts_them() {
        // torch.nn.functional.interpolate of [0, 1, 4] to 6 and of [0, 1, 2, 3] to 2.
        let x = row(&[0.0, 1.0, 4.0]);
        let up = |how: Resize| how.apply(x.clone(), [1, 6]);
        assert_close("nearest", &up(Resize::Nearest), &row(&[0.0, 0.0, 1.0, 1.0, 4.0, 4.0]), 0.0);
        assert_close("bilinear", &up(Resize::Bilinear), &row(&[0.0, 0.25, 0.75, 1.75, 3.25, 4.0]), 1e-6);
        assert_close("corners", &up(Resize::BilinearCorners), &row(&[0.0, 0.4, 0.8, 1.6, 2.8, 4.0]), 1e-6);
        let down = |how: Resize| how.apply(row(&[0.0, 1.0, 2.0, 3.0]), [1, 2]);
        assert_close("bilinear", &down(Resize::Bilinear), &row(&[0.5, 2.5]), 1e-6);
        assert_close("corners", &down(Resize::BilinearCorners), &row(&[0.0, 3.0]), 1e-6);
        assert_close("one", &Resize::BilinearCorners.apply(x, [1, 1]), &row(&[0.0]), 0.0);
    }

    #[test]
    fn rows_are_as_columns() {
        let x = row(&[0.0, 1.0, 4.0]);
        let turned = x.clone().permute([0, 2, 1, 3]);
        let want = Resize::Bilinear.apply(x, [1, 5]).permute([0, 2, 1, 3]);
        assert_close("rows", &Resize::Bilinear.apply(turned, [5, 1]), &want, 1e-6);
    }
}
