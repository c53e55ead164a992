//! What goes over the wire, shared by the API and the CLI. Fields are only ever added.
//!
//! Read in this order: `item`, `job`, `place` (regions, status, directory, audit), `incident`, `ask` (what clients send),
//! `token`, `realtime`, `hub`, `runners`, `app`, `migration`.
//! Moments are RFC 3339 in UTC; bytes are bytes.

mod app;
mod ask;
mod hub;
mod incident;
mod item;
mod job;
mod join;
mod migration;
mod place;
mod realtime;
mod runners;
mod token;

pub use app::{
    AppBackupView, AppBackupsBrief, AppBegunView, AppBrief, AppCapacityView, AppCertificateRequest,
    AppDatabaseBrief, AppDatabaseRequest, AppDatabaseView, AppDeployRequest, AppDifferenceView,
    AppExportView, AppHostsChangeRequest, AppHostsRequest, AppKeyWord, AppKeysRequest, AppKeysView,
    AppLogView, AppOperationBrief, AppOperationView, AppPositionView, AppProcessView, AppRegenerateRequest,
    AppReleaseBrief, AppReleaseView, AppRestoreRequest, AppRollbackRequest, AppScaleRequest, AppScriptsView,
    AppSettingsRequest, AppSettingsView, AppUploadRequest, AppUploadView, AppView,
};
pub use ask::{
    AdoptRequest, ChangePointRequest, CreateRequest, FailoverRequest, MarkPointRequest, NoParameters,
    OnControlLossWord, ProtectRequest, ReasonRequest, ReplicationWord, TestFailoverRequest,
};
pub use hub::{
    HubAuthRequest, HubAuthorityRequest, HubAuthorityView, HubCheckpointRequest, HubConflictView,
    HubConflictsView, HubConnectionStringView, HubCursor, HubDeviceBrief, HubDeviceRequest, HubDevicesCount,
    HubDevicesView, HubEndpointsView, HubEnrollmentRequest, HubEnrollmentView, HubEventView, HubEventsView,
    HubExportView, HubGroupView, HubImportRequest, HubImportView, HubKeyWord, HubKeysRequest, HubKeysView,
    HubLateView, HubLineError, HubMergeRequest, HubMergeView, HubMessageRequest, HubMessageView,
    HubMethodRequest, HubMethodView, HubPolicyRequest, HubPolicyView, HubReplicationView, HubSideView,
    HubStatusRequest, HubTelemetryView, HubTwinRequest, HubView,
};
pub use incident::{IncidentChangeView, IncidentMessage, IncidentRequest, IncidentView, SeverityWord};
pub use item::{
    DivergenceView, DrillView, EndpointView, FailoverView, HealthState, HealthView, ItemView, JobBrief,
    LossView, ObservationView, PointView, PointsBrief, PointsView, ReplicationView, RpoView, SeenView,
    WatermarkView,
};
pub(in crate::api) use item::{proof_text, role_word};
pub use job::{BytesView, JobView, LogView, StepView};
pub use join::{JoinTokenRequest, JoinTokenView, NodeWord};
pub use migration::{
    MigrateRequest, MigratedDatabase, MigratedDifference, MigratedRelease, MigrationPreview, MigrationReport,
    MigrationView,
};
pub use place::{
    AuditView, BannerView, ControlView, DirectoryView, RegionItemView, RegionView, StatusView, VersionView,
};
pub use realtime::{
    ConnectionStringView, DrainRequest, DrainView, EndpointWord, HandlerView, HandlersRequest, HandlersView,
    KeyWord, KeysView, MembersRequest, MembersView, NegotiateView, RegenerateRequest, RegionStatsView,
    StatsView, UserEventsView,
};
pub use runners::{
    HubDirectionWord, HubMemberFailedView, HubMemberReportView, HubMemberRequest, HubMemberRunRequest,
    HubMemberView, HubSinkRequest, HubSinkView,
};
pub use token::{NewTokenView, RoleWord, TokenRequest, TokenView, WhoamiView};
