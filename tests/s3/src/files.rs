//! s3s's file system, and what it lacks: pages of a listing, a listing of open uploads, and conditional puts that
//! are atomic.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};
use s3s_fs::FileSystem;

/// Open uploads by id: bucket and key.
#[derive(Debug, Default)]
pub(crate) struct Uploads(Mutex<BTreeMap<String, (String, String)>>);

impl Uploads {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (String, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Their keys.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.lock().values().map(|(_, key)| key.clone()).collect()
    }
}

/// Stands in a request whose conditions are not heeded.
#[derive(Clone)]
pub(crate) struct Unconditional;

/// The objects.
pub(crate) struct Files {
    pub(crate) inner: FileSystem,
    pub(crate) uploads: std::sync::Arc<Uploads>,
    /// Held from a condition's check to the put.
    pub(crate) putting: tokio::sync::Mutex<()>,
}

type Asked<T> = S3Request<T>;
type Said<T> = S3Result<S3Response<T>>;

#[async_trait]
impl S3 for Files {
    async fn head_bucket(&self, asked: Asked<HeadBucketInput>) -> Said<HeadBucketOutput> {
        self.inner.head_bucket(asked).await
    }

    async fn head_object(&self, asked: Asked<HeadObjectInput>) -> Said<HeadObjectOutput> {
        self.inner.head_object(asked).await
    }

    async fn get_object(&self, asked: Asked<GetObjectInput>) -> Said<GetObjectOutput> {
        self.inner.get_object(asked).await
    }

    async fn put_object(&self, mut asked: Asked<PutObjectInput>) -> Said<PutObjectOutput> {
        if asked.extensions.get::<Unconditional>().is_some() {
            asked.input.if_none_match = None;
        }
        let _alone = match asked.input.if_none_match {
            Some(_) => Some(self.putting.lock().await),
            None => None,
        };
        self.inner.put_object(asked).await
    }

    async fn delete_object(&self, asked: Asked<DeleteObjectInput>) -> Said<DeleteObjectOutput> {
        self.inner.delete_object(asked).await
    }

    async fn delete_objects(&self, asked: Asked<DeleteObjectsInput>) -> Said<DeleteObjectsOutput> {
        self.inner.delete_objects(asked).await
    }

    async fn list_objects_v2(
        &self,
        mut asked: Asked<ListObjectsV2Input>,
    ) -> Said<ListObjectsV2Output> {
        // The token of a page is the last name of the one before.
        let token = asked.input.continuation_token.take();
        asked.input.start_after = token.or(asked.input.start_after);
        let mut said = self.inner.list_objects_v2(asked).await?;
        if said.output.is_truncated == Some(true) {
            let names = said.output.contents.as_deref().unwrap_or_default();
            said.output.next_continuation_token = names.last().and_then(|last| last.key.clone());
        }
        Ok(said)
    }

    async fn create_multipart_upload(
        &self,
        asked: Asked<CreateMultipartUploadInput>,
    ) -> Said<CreateMultipartUploadOutput> {
        let of = (asked.input.bucket.clone(), asked.input.key.clone());
        let said = self.inner.create_multipart_upload(asked).await?;
        if let Some(id) = &said.output.upload_id {
            self.uploads.lock().insert(id.clone(), of);
        }
        Ok(said)
    }

    async fn upload_part(&self, asked: Asked<UploadPartInput>) -> Said<UploadPartOutput> {
        self.inner.upload_part(asked).await
    }

    async fn complete_multipart_upload(
        &self,
        asked: Asked<CompleteMultipartUploadInput>,
    ) -> Said<CompleteMultipartUploadOutput> {
        let id = asked.input.upload_id.clone();
        // A client that has lost patience asks again while this is still being done.
        let _alone = self.putting.lock().await;
        // One that is over is not there, as S3 says it: not forbidden, as s3s-fs would.
        if !self.uploads.lock().contains_key(&id) {
            return Err(s3s::s3_error!(NoSuchUpload));
        }
        let said = self.inner.complete_multipart_upload(asked).await?;
        self.uploads.lock().remove(&id);
        Ok(said)
    }

    async fn abort_multipart_upload(
        &self,
        asked: Asked<AbortMultipartUploadInput>,
    ) -> Said<AbortMultipartUploadOutput> {
        let id = asked.input.upload_id.clone();
        if !self.uploads.lock().contains_key(&id) {
            return Err(s3s::s3_error!(NoSuchUpload));
        }
        let said = self.inner.abort_multipart_upload(asked).await?;
        self.uploads.lock().remove(&id);
        Ok(said)
    }

    async fn list_multipart_uploads(
        &self,
        asked: Asked<ListMultipartUploadsInput>,
    ) -> Said<ListMultipartUploadsOutput> {
        let (bucket, prefix) = (asked.input.bucket, asked.input.prefix.unwrap_or_default());
        let open = self.uploads.lock().clone().into_iter();
        let found = open.filter(|(_, (of, key))| *of == bucket && key.starts_with(&prefix));
        let found = found.map(|(id, (_, key))| MultipartUpload {
            key: Some(key),
            upload_id: Some(id),
            ..MultipartUpload::default()
        });
        let uploads = Some(found.collect());
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(bucket),
            prefix: Some(prefix),
            is_truncated: Some(false),
            uploads,
            ..ListMultipartUploadsOutput::default()
        }))
    }
}
