//! The study that a user starts from: every choice has a default that follows the data, and a comment.

use std::path::Path;

use nettriage_data::Dataset;
use nettriage_net::arch;
use nettriage_net::surgery::Substitute;

/// The text of a study file for a network, a file or the name of a built-in architecture, and a data set.
///
/// `substitute` takes the blocks' place. `data_dir` is where the data set's files are; needed for the data set `folder` alone.
pub fn template(
    model: &str,
    substitute: Substitute,
    data: &Dataset,
    data_name: &str,
    data_dir: Option<&Path>,
) -> String {
    let file = !arch::names().contains(&model);
    let stem = Path::new(model).file_stem().map_or(model.into(), |stem| stem.to_string_lossy());
    let name: String =
        format!("{stem}-{data_name}").chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let train = data.train.len();
    let validation = (train / 10).clamp(1, 5000);
    let images = train.saturating_sub(validation).clamp(1, 20_000);
    let batch = 128.min((images / 10).max(1));
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let dir = data_dir.map_or(String::new(), |dir| format!("dir = {}\n", quoted(&dir.to_string_lossy())));
    let size = if data_name == "folder" {
        format!("size = {}            # pixels a side\n", data.height)
    } else {
        String::new()
    };
    let parent = if file {
        let keys = "# mean = [0.5, 0.5, 0.5]   # the normalisation that it was trained with, of pixels scaled to 0 to 1;\n\
                    # std = [0.25, 0.25, 0.25] # if left out, that in the .toml beside the file, else the training set's own\n";
        format!("file = {}\n{keys}", quoted(model))
    } else {
        let epochs = "[parent.training]\nepochs = 20\nbatch = 128\nrate = 0.1            # the largest learning rate\n";
        format!("arch = {}\n\n{epochs}", quoted(model))
    };
    let seen = if file {
        "# validation_from = \"test\"  # for a parent that was trained on all training images\n\
         # seen = false               # the parent was not trained on the validation images\n"
    } else {
        ""
    };
    format!(
        "# Which blocks of the network matter? Every key is described in docs/study.md.\n\
         # nettriage run THIS_FILE --dry-run   estimates time and memory\n\
         # nettriage run THIS_FILE\n\
         \n\
         name = {name}\n\
         \n\
         [data]\n\
         name = {data_name}\n\
         {dir}{size}validation = {validation}      # images set apart from the training set, for every choice\n\
         {seen}# augment = {{ pad = 4, flip = true }}\n\
         \n\
         [parent]\n\
         {parent}\
         \n\
         [children]\n\
         seeds = 3             # more seeds give narrower intervals\n\
         images = {images}        # training images that every child sees\n\
         batch = {batch}\n\
         rate = 0.02           # the largest learning rate\n\
         \n\
         [triage]\n\
         substitutes = [\"{substitute}\"]\n\
         inits = [\"random\", \"least-squares\"]\n\
         schemes = [\"none\", \"local\", \"global\", \"distill-global\"]\n",
        name = quoted(&name),
        data_name = quoted(data_name),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Study;

    #[test]
    fn templates_are_studies() {
        let digits = nettriage_data::open("digits", None).unwrap();
        let conv3x3 = "conv3x3".parse().unwrap();
        let study = Study::parse(&template("cifar-resnet20", conv3x3, &digits, "digits", None), "t").unwrap();
        assert_eq!(study.parent.arch.as_deref(), Some("cifar-resnet20"));
        assert!(
            study.data.validation > 0 && study.children.images.unwrap() + study.data.validation <= digits.train.len()
        );
        // A name that TOML must escape.
        let odd = "nets/a \"quoted\\\u{7}\".onnx";
        let study = Study::parse(&template(odd, conv3x3, &digits, "digits", Some(Path::new("d"))), "t").unwrap();
        assert_eq!(study.parent.file.as_deref(), Some(Path::new(odd)));
        assert_eq!(study.data.dir.as_deref(), Some(Path::new("d")));
    }
}
