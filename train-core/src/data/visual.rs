//! Prompts with images and videos.

use std::path::{Path, PathBuf};

use qwen3::vision::processor::{Image, Processor, Video};
use serde_json::{Value, json};

use super::{DataError, TextCodec};
use crate::media::{MediaError, read_image, read_video};
use crate::types::Images;

/// A file that stands in a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum MediaFile {
    /// An image.
    Image(PathBuf),
    /// A video: a file, or a directory of frames.
    Video {
        /// Where it is.
        path: PathBuf,
        /// Frames a second of a directory; a file says its own.
        fps: Option<f64>,
    },
}

/// Images and videos in memory, each kind in the order of its placeholders.
#[derive(Clone, Debug, Default)]
pub struct Media {
    images: Vec<Image>,
    videos: Vec<Video>,
}

impl Media {
    /// Reads files in their order.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn read<'a>(
        files: impl IntoIterator<Item = &'a MediaFile>,
        processor: &Processor,
    ) -> Result<Self, MediaError> {
        let mut media = Self::default();
        for file in files {
            match file {
                MediaFile::Image(path) => media.images.push(read_image(path)?),
                MediaFile::Video { path, fps } => media.videos.push(read_video(path, processor, *fps)?),
            }
        }
        Ok(media)
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.images.is_empty() && self.videos.is_empty()
    }

    /// Puts others behind these.
    pub fn extend(&mut self, others: Self) {
        self.images.extend(others.images);
        self.videos.extend(others.videos);
    }
}

impl TextCodec {
    /// What the model reads of a prompt that has a placeholder for each image and each video: as many as it has tokens, and
    /// the times of a video's frames.
    ///
    /// # Errors
    /// When the model sees nothing, or placeholders and media do not fit together.
    pub fn with_media(&self, tokens: Vec<u32>, media: &Media) -> Result<(Vec<u32>, Images), DataError> {
        if media.is_empty() {
            return Ok((tokens, Images::default()));
        }
        let encode = |text: &str| {
            let broken =
                |e: DataError| qwen3::Error::Visual { item: "timestamp".into(), reason: e.to_string() };
            self.encode(text).map_err(broken)
        };
        let prompt = self.processor()?.prompt(&tokens, &media.images, &media.videos, encode);
        let prompt = prompt.map_err(|e| DataError::Vision(e.to_string()))?;
        Ok((prompt.tokens, Images::new(prompt.items)))
    }

    /// The placeholders of media in a prompt without chat template, each between the marks of an item.
    ///
    /// # Errors
    /// When the model sees nothing.
    pub fn placeholders(&self, files: &[MediaFile]) -> Result<Vec<u32>, DataError> {
        let model = self.processor()?.model();
        let item = |file: &MediaFile| {
            let id = match file {
                MediaFile::Image(_) => model.placeholders.image,
                MediaFile::Video { .. } => model.placeholders.video,
            };
            [model.vision_start_token_id, Some(id), model.vision_end_token_id].into_iter().flatten()
        };
        Ok(files.iter().flat_map(item).collect())
    }
}

/// A user's message that shows media before its text.
#[must_use]
pub fn message_with(files: &[MediaFile], text: &str) -> Value {
    let part = |file: &MediaFile| match file {
        MediaFile::Image(_) => json!({ "type": "image" }),
        MediaFile::Video { .. } => json!({ "type": "video" }),
    };
    let text = json!({ "type": "text", "text": text });
    let content: Vec<Value> = files.iter().map(part).chain([text]).collect();
    json!({ "role": "user", "content": content })
}

/// The files of a column: one, or a list; each a path from `dir`, or an object with the `path` and, for a directory of
/// frames, `fps`. `kind` is `image` or `video`.
pub(super) fn files_of(kind: &str, column: Option<&Value>, dir: &Path) -> Result<Vec<MediaFile>, String> {
    match column {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(|item| file_of(kind, item, dir)).collect(),
        Some(item) => Ok(vec![file_of(kind, item, dir)?]),
    }
}

fn file_of(kind: &str, item: &Value, dir: &Path) -> Result<MediaFile, String> {
    let named = ["path", "url", kind].iter().find_map(|name| item.get(*name)?.as_str());
    let Some(path) = item.as_str().or(named) else {
        return Err(format!("{kind}: {item} is neither a path nor an object with one"));
    };
    let path = path.strip_prefix("file://").unwrap_or(path);
    if path.starts_with("data:") || path.contains("://") {
        let start: String = path.chars().take(40).collect();
        return Err(format!("{kind}: {start:?} is no file; only files are read"));
    }
    let path = dir.join(path);
    if kind == "image" {
        return Ok(MediaFile::Image(path));
    }
    let fps = match item.get("fps") {
        None | Some(Value::Null) => None,
        Some(fps) => match fps.as_f64() {
            Some(fps) if fps > 0.0 => Some(fps),
            _ => return Err(format!("video: fps is {fps}, expected a positive number")),
        },
    };
    Ok(MediaFile::Video { path, fps })
}

/// Takes the files out of the messages of a conversation, in their order, and leaves bare placeholders. A part that names
/// no file stands for the next of `images` or `videos`. Where no message has such a part, those are shown before the text
/// of the first message of the user.
pub(super) fn take_files(
    messages: &mut [Value],
    dir: &Path,
    images: Vec<MediaFile>,
    videos: Vec<MediaFile>,
) -> Result<Vec<MediaFile>, String> {
    let counts = [images.len(), videos.len()];
    let mut columns = [images.into_iter(), videos.into_iter()];
    let mut files = Vec::new();
    for message in messages.iter_mut() {
        let Some(Value::Array(parts)) = message.get_mut("content") else { continue };
        for part in parts {
            let kind = match part.get("type").and_then(Value::as_str) {
                Some("image" | "image_url") => 0,
                Some("video" | "video_url") => 1,
                _ => continue,
            };
            let name = ["image", "video"][kind];
            // OpenAI's form nests the address.
            let nested = part.get(format!("{name}_url")).cloned();
            let item = nested.unwrap_or_else(|| part.clone());
            let names_file =
                item.is_string() || ["path", "url", name].iter().any(|key| item.get(*key).is_some());
            files.push(match names_file {
                true => file_of(name, &item, dir)?,
                false => columns[kind].next().ok_or_else(|| {
                    format!("the messages show more {name}s than the column has ({})", counts[kind])
                })?,
            });
            *part = json!({ "type": name });
        }
    }
    let [images, videos] = columns;
    let left: Vec<MediaFile> = images.chain(videos).collect();
    if left.is_empty() {
        return Ok(files);
    }
    if !files.is_empty() {
        return Err(format!("the columns have {} images and videos that no message shows", left.len()));
    }
    let user = messages.iter_mut().find(|m| m.get("role").is_some_and(|role| role == "user"));
    let Some(user) = user else { return Err("no message of the user to show images in".into()) };
    let parts = match user.get("content") {
        Some(Value::Array(parts)) => parts.clone(),
        Some(Value::String(text)) => vec![json!({ "type": "text", "text": text })],
        _ => Vec::new(),
    };
    let Value::Array(mut content) = message_with(&left, "")["content"].take() else { return Ok(left) };
    content.pop();
    content.extend(parts);
    user["content"] = Value::Array(content);
    Ok(left)
}

/// The texts of a conversation, for people and for rewards.
pub(super) fn text_of(messages: &[Value]) -> String {
    let mut texts = Vec::new();
    for message in messages {
        match message.get("content") {
            Some(Value::String(text)) => texts.push(text.as_str()),
            Some(Value::Array(parts)) => texts.extend(parts.iter().filter_map(|p| p.get("text")?.as_str())),
            _ => {}
        }
    }
    texts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(path: &str) -> MediaFile {
        MediaFile::Image(path.into())
    }

    #[test]
    fn files_are_found_where_messages_show_them() {
        let video = MediaFile::Video { path: "/data/clip".into(), fps: Some(2.0) };
        let mut messages = [
            json!({ "role": "system", "content": "look" }),
            json!({ "role": "user", "content": [
                { "type": "image" }, { "type": "text", "text": "and" }, { "type": "image", "image": "b.png" },
                { "type": "video", "path": "clip", "fps": 2 },
                { "type": "image_url", "image_url": { "url": "file:///c.png" } }, { "type": "image" },
            ] }),
        ];
        let column =
            files_of("image", Some(&json!(["a.png", { "path": "d.png" }])), Path::new("/data")).unwrap();
        let files = take_files(&mut messages, Path::new("/data"), column, Vec::new()).unwrap();
        let images = ["/data/a.png", "/data/b.png"].map(image);
        assert_eq!(files[..2], images);
        assert_eq!(files[2..], [video, image("/c.png"), image("/data/d.png")]);
        let bare = json!({ "type": "image" });
        assert_eq!(messages[1]["content"][2], bare);
        assert_eq!(messages[1]["content"][3], json!({ "type": "video" }));
        assert_eq!(text_of(&messages), "look\nand");
    }

    #[test]
    fn files_that_no_message_shows_stand_before_the_text() {
        let mut messages = [json!({ "role": "user", "content": "what?" })];
        let files = take_files(&mut messages, Path::new(""), vec![image("a.png")], Vec::new()).unwrap();
        assert_eq!(files, [image("a.png")]);
        assert_eq!(messages[0], message_with(&files, "what?"));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let shows = |kind: &str| json!({ "role": "user", "content": [{ "type": kind }] });
        for (messages, images, reason) in [
            ([shows("image")], 0, "more images than the column has (0)"),
            ([shows("video")], 1, "more videos than the column has (0)"),
            ([shows("image")], 3, "have 2 images and videos that no message shows"),
            ([json!({ "role": "system", "content": "x" })], 1, "no message of the user"),
        ] {
            let images = vec![image("a"); images];
            let error = take_files(&mut messages.clone(), Path::new(""), images, Vec::new()).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        for (value, reason) in [
            (json!(3), "image: 3 is neither a path nor an object with one"),
            (json!("https://x/a.png"), "image: \"https://x/a.png\" is no file; only files are read"),
            (json!(["data:image/png;base64,AA"]), "only files are read"),
        ] {
            let error = files_of("image", Some(&value), Path::new("")).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let error = files_of("video", Some(&json!({ "path": "a", "fps": 0 })), Path::new("")).unwrap_err();
        assert_eq!(error, "video: fps is 0, expected a positive number");
    }
}
