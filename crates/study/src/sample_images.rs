//! The images that a report shows: patches of validation images with large activations, and test images whose prediction changes.

use nettriage_records::SampleImages;
use nettriage_records::plan::VERSION;

use crate::context::StudyContext;

/// Validation images stored: those on which filters' activations are read.
pub(crate) const VALIDATION: usize = 200;
/// Most bytes of test images stored; a report shows a few of them.
const MAX_BYTES: usize = 4 << 20;

/// The first validation and test images.
pub(crate) fn of(context: &StudyContext) -> SampleImages {
    let data = &context.data;
    let size = data.height * data.width * data.channels;
    let bytes = |images: &nettriage_data::Images, indices: &[u32]| -> Vec<u8> {
        indices.iter().flat_map(|&i| &images.pixels[i as usize * size..][..size]).copied().collect()
    };
    let test = &context.test[..context.test.len().min((MAX_BYTES / size.max(1)).max(1))];
    let validation = &context.validation[..context.validation.len().min(VALIDATION)];
    SampleImages {
        version: VERSION,
        shape: [data.height, data.width, data.channels],
        validation: SampleImages::encode(&bytes(context.validation_images(), validation)),
        test: SampleImages::encode(&bytes(&data.test, test)),
        // All labels, because the report needs the share of the most frequent class.
        labels: context.test.iter().map(|&i| data.test.labels[i as usize]).collect(),
    }
}
