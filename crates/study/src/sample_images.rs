//! The images that a report shows: exciting patches of validation images, and test images whose answer flips.

use nettriage_records::SampleImages;
use nettriage_records::plan::VERSION;

use crate::context::StudyContext;

/// Validation images kept: those that filters are watched on.
pub(crate) const VALIDATION: usize = 200;
/// Bytes of test images kept, at most; a report shows a few of them.
const MOST: usize = 4 << 20;

/// The first validation and test images.
pub(crate) fn of(context: &StudyContext) -> SampleImages {
    let data = &context.data;
    let size = data.height * data.width * data.channels;
    let bytes = |images: &nettriage_data::Images, indices: &[u32]| -> Vec<u8> {
        indices.iter().flat_map(|&i| &images.pixels[i as usize * size..][..size]).copied().collect()
    };
    let test = &context.test[..context.test.len().min((MOST / size.max(1)).max(1))];
    let validation = &context.validation[..context.validation.len().min(VALIDATION)];
    SampleImages {
        version: VERSION,
        shape: [data.height, data.width, data.channels],
        validation: SampleImages::encode(&bytes(&data.train, validation)),
        test: SampleImages::encode(&bytes(&data.test, test)),
        // All labels, because the report needs the share of the most frequent class.
        labels: context.test.iter().map(|&i| data.test.labels[i as usize]).collect(),
    }
}
