package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/request"
)

// Record is the audit event of one request under way. Those who serve the request tell it what they see. Its methods may be called by
// several goroutines, and those of a nil Record, which is that of a request nobody writes down, do nothing.
type Record struct {
	log      *Log
	decision decision
	ctx      context.Context // of the request: it collects the annotations

	mu    sync.Mutex
	event auditv1.Event
}

type recordKey struct{}

// With returns a context that carries r.
func With(ctx context.Context, r *Record) context.Context {
	return context.WithValue(ctx, recordKey{}, r)
}

// From is the Record of ctx, or nil.
func From(ctx context.Context) *Record {
	r, _ := ctx.Value(recordKey{}).(*Record)
	return r
}

// mostAgent is how much of a User-Agent is kept.
const mostAgent = 1024

// Begin is the record of a request that asks for a, or nil if the policy has nothing written down of it. Nothing is written before
// Received.
func (l *Log) Begin(r *http.Request, a authorizer.Attributes) *Record {
	if l == nil {
		return nil
	}
	d := l.policy.decide(a)
	l.metrics.levels.WithLabelValues(string(d.level)).Inc()
	if d.level == auditv1.LevelNone {
		return nil
	}
	agent := r.UserAgent()
	if len(agent) > mostAgent {
		agent = agent[:mostAgent] + "...TRUNCATED"
	}
	e := auditv1.Event{
		Level: d.level, AuditID: types.UID(request.AuditID(r.Context())), RequestURI: r.URL.RequestURI(), Verb: a.GetVerb(), UserAgent: agent,
		RequestReceivedTimestamp: metav1.NewMicroTime(time.Now()),
	}
	for _, ip := range utilnet.SourceIPs(r) {
		e.SourceIPs = append(e.SourceIPs, ip.String())
	}
	if u := a.GetUser(); u != nil {
		e.User = userInfo(u)
	}
	if a.IsResourceRequest() {
		e.ObjectRef = &auditv1.ObjectReference{Namespace: a.GetNamespace(), Name: a.GetName(), Resource: a.GetResource(),
			Subresource: a.GetSubresource(), APIGroup: a.GetAPIGroup(), APIVersion: a.GetAPIVersion()}
	}
	return &Record{log: l, decision: d, ctx: r.Context(), event: e}
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for key, values := range u.GetExtra() {
		if info.Extra == nil {
			info.Extra = make(map[string]authenticationv1.ExtraValue)
		}
		info.Extra[key] = values
	}
	return info
}

// Received writes down that the request has come. An error, which only a backend gives that must not miss an event, means that the
// request must not be served.
func (r *Record) Received() error {
	if r.stage(auditv1.StageRequestReceived) {
		return nil
	}
	r.log.metrics.rejected.Inc()
	return fmt.Errorf("failed to store audit event")
}

// Started notes the code that the answer begins with, and writes that down if more will follow for long.
func (r *Record) Started(code int, long bool) {
	r.mu.Lock()
	if r.event.ResponseStatus == nil {
		r.event.ResponseStatus = &metav1.Status{}
	}
	r.event.ResponseStatus.Code = int32(code)
	r.mu.Unlock()
	if long {
		r.stage(auditv1.StageResponseStarted)
	}
}

// Completed writes down that the answer has ended. One that has never begun was the client's leaving.
func (r *Record) Completed(long bool) {
	if r.unanswered(&metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusOK, Message: "Connection closed early"}) && long {
		r.stage(auditv1.StageResponseStarted)
	}
	r.stage(auditv1.StageResponseComplete)
}

// unanswered sets the status of a request that has none, and reports whether it had none.
func (r *Record) unanswered(status *metav1.Status) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.event.ResponseStatus != nil {
		return false
	}
	r.event.ResponseStatus = status
	return true
}

// Panicked writes down that serving the request panicked with p.
func (r *Record) Panicked(p any) {
	r.mu.Lock()
	r.event.ResponseStatus = &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError,
		Message: fmt.Sprintf("APIServer panic'd: %v", p)}
	r.mu.Unlock()
	r.stage(auditv1.StagePanic)
}

// Impersonates notes as whom the request is served, and in which mode that is allowed, empty for the verb impersonate.
func (r *Record) Impersonates(u user.Info, mode string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	info := userInfo(u)
	r.event.ImpersonatedUser = &info
	if mode != "" {
		r.event.AuthenticationMetadata = &auditv1.AuthenticationMetadata{ImpersonationConstraint: "impersonate:" + mode}
	}
}

// Asked notes the object that was sent. encode makes its JSON, and is called only if the policy wants it. An object of a collection is
// known by the name it has then.
func (r *Record) Asked(obj any, encode func() ([]byte, error)) {
	if r == nil {
		return
	}
	if m, err := meta.Accessor(obj); err == nil {
		r.about(m)
	}
	if atLeast(r.decision.level, auditv1.LevelRequest) {
		r.keep(&r.event.RequestObject, encode)
	}
}

// about fills in what the path does not say of the object.
func (r *Record) about(m metav1.Object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ref := r.event.ObjectRef
	if ref == nil {
		return
	}
	for place, value := range map[*string]string{&ref.Namespace: m.GetNamespace(), &ref.Name: m.GetName(), &ref.ResourceVersion: m.GetResourceVersion()} {
		if *place == "" {
			*place = value
		}
	}
	if ref.UID == "" {
		ref.UID = m.GetUID()
	}
}

// Answered notes what the request was answered with, as Asked does. A Status is noted in any case.
func (r *Record) Answered(status *metav1.Status, encode func() ([]byte, error)) {
	if r == nil {
		return
	}
	if status != nil {
		r.mu.Lock()
		r.event.ResponseStatus = &metav1.Status{Status: status.Status, Message: status.Message, Reason: status.Reason, Details: status.Details, Code: status.Code}
		r.mu.Unlock()
	}
	if atLeast(r.decision.level, auditv1.LevelRequestResponse) {
		r.keep(&r.event.ResponseObject, encode)
	}
}

// keep puts an object into the event.
func (r *Record) keep(place **runtime.Unknown, encode func() ([]byte, error)) {
	data, err := encode()
	if err == nil && r.decision.withoutManagers {
		data, err = withoutManagers(data)
	}
	if err != nil {
		r.log.logger.ErrorContext(r.ctx, "an object is missing in the audit event", "audit-id", r.event.AuditID, "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	*place = &runtime.Unknown{Raw: data, ContentType: runtime.ContentTypeJSON}
}

// withoutManagers is the JSON of an object, of a list or of a table without managed fields.
func withoutManagers(data []byte) ([]byte, error) {
	var obj map[string]any
	if err := json.Unmarshal(data, &obj); err != nil {
		return nil, err
	}
	forget(obj)
	items, _ := obj["items"].([]any)
	for _, item := range items {
		forget(item)
	}
	rows, _ := obj["rows"].([]any)
	for _, row := range rows {
		if row, ok := row.(map[string]any); ok {
			forget(row["object"])
		}
	}
	return json.Marshal(obj)
}

func forget(obj any) {
	if obj, ok := obj.(map[string]any); ok {
		if metadata, ok := obj["metadata"].(map[string]any); ok {
			delete(metadata, "managedFields")
		}
	}
}

// stage writes the event down as it is now, and reports whether that was possible.
func (r *Record) stage(stage auditv1.Stage) bool {
	if slices.Contains(r.decision.omitted, stage) {
		return true
	}
	r.mu.Lock()
	e := r.event
	r.mu.Unlock()
	e.Stage, e.Annotations = stage, request.Annotations(r.ctx)
	if e.StageTimestamp = e.RequestReceivedTimestamp; stage != auditv1.StageRequestReceived {
		e.StageTimestamp = metav1.NewMicroTime(time.Now())
	}
	if e.ObjectRef != nil {
		ref := *e.ObjectRef
		e.ObjectRef = &ref
	}
	if e.ResponseStatus != nil {
		status := *e.ResponseStatus
		e.ResponseStatus = &status
	}
	return r.log.write(&e)
}
