package authz

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	authorizationv1 "k8s.io/api/authorization/v1"
	authorizationv1beta1 "k8s.io/api/authorization/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/cache"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/apiserver/expression"
	"github.com/skiff-k8s/skiff/apiserver/reach"
)

// mostAnswers are kept, each of mostKept bytes at most with its question.
const mostAnswers, mostKept = 8192, 10_000

// webhook asks another server by SubjectAccessReviews.
type webhook struct {
	name       string
	client     *rest.RESTClient
	older      bool // v1beta1 is spoken
	conditions []*expression.Question
	onError    authorizer.Decision
	pause      time.Duration // after the first failure
	answers    *cache.LRUExpireCache
	// allowedFor and refusedFor are how long answers hold.
	allowedFor, refusedFor time.Duration
	metrics                *metrics
	log                    *slog.Logger
}

func newWebhook(e entry, pause time.Duration, m *metrics, log *slog.Logger) (*webhook, error) {
	c := e.Webhook
	w := &webhook{
		name: e.Name, older: c.SubjectAccessReviewVersion == authorizationv1beta1.SchemeGroupVersion.Version, conditions: e.conditions,
		onError: authorizer.DecisionNoOpinion, pause: pause,
		answers: cache.NewLRUExpireCache(mostAnswers), metrics: m, log: log,
	}
	if wantsDeny(c) {
		w.onError = authorizer.DecisionDeny
	}
	w.allowedFor, w.refusedFor = ttls(c)
	version := authorizationv1.SchemeGroupVersion
	switch {
	case w.older:
		version = authorizationv1beta1.SchemeGroupVersion
	case c.SubjectAccessReviewVersion != version.Version:
		return nil, fmt.Errorf("unsupported webhook authorizer version %q, supported versions are %q, %q",
			c.SubjectAccessReviewVersion, version.Version, authorizationv1beta1.SchemeGroupVersion.Version)
	}
	var err error
	w.client, err = reach.Reviewer(*c.ConnectionInfo.KubeConfigFile, c.Timeout.Duration, scheme.Codecs.LegacyCodec(version))
	return w, err
}

// Authorize implements authorizer.Authorizer. A webhook that fails, and conditions that do, leave it to the failure policy.
func (w *webhook) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	spec := question(a)
	matches, err := w.matches(ctx, spec)
	switch {
	case err != nil:
		return w.onError, "", err
	case !matches:
		return authorizer.DecisionNoOpinion, "", nil
	}
	key, err := json.Marshal(spec)
	if err != nil {
		return w.onError, "", err
	}
	if known, ok := w.answers.Get(string(key)); ok {
		return decision(known.(authorizationv1.SubjectAccessReviewStatus))
	}
	answer, err := w.ask(ctx, spec)
	if err != nil {
		w.log.WarnContext(ctx, "authorization webhook failed", "name", w.name, "error", err)
		return w.onError, "", err
	}
	if d := w.keep(answer); d > 0 && len(key)+len(answer.Reason)+len(answer.EvaluationError) < mostKept {
		w.answers.Add(string(key), answer, d)
	}
	return decision(answer)
}

// keep is how long an answer holds.
func (w *webhook) keep(answer authorizationv1.SubjectAccessReviewStatus) time.Duration {
	if answer.Allowed {
		return w.allowedFor
	}
	return w.refusedFor
}

func decision(s authorizationv1.SubjectAccessReviewStatus) (authorizer.Decision, string, error) {
	switch {
	case s.Denied && s.Allowed:
		return authorizer.DecisionDeny, s.Reason, errors.New("webhook subject access review returned both allow and deny response")
	case s.Denied:
		return authorizer.DecisionDeny, s.Reason, nil
	case s.Allowed:
		return authorizer.DecisionAllow, s.Reason, nil
	}
	return authorizer.DecisionNoOpinion, s.Reason, nil
}

// matches reports whether all conditions hold. One that does not is enough to say no, whether others fail or not.
func (w *webhook) matches(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (bool, error) {
	if len(w.conditions) == 0 {
		return true, nil
	}
	began, about := time.Now(), seen(spec)
	defer func() {
		w.metrics.conditionTime.WithLabelValues(typeWebhook, w.name).Observe(time.Since(began).Seconds())
	}()
	var problems []error
	for _, c := range w.conditions {
		holds, err := c.Holds(ctx, about)
		switch {
		case err != nil:
			problems = append(problems, err)
		case !holds:
			w.metrics.conditionExcludes.WithLabelValues(typeWebhook, w.name).Inc()
			return false, nil
		}
	}
	if len(problems) > 0 {
		w.metrics.conditionErrors.WithLabelValues(typeWebhook, w.name).Inc()
	}
	return len(problems) == 0, utilerrors.NewAggregate(problems)
}

// ask tries again while the server says that it may be better later.
func (w *webhook) ask(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (answer authorizationv1.SubjectAccessReviewStatus, err error) {
	result := ""
	err = reach.Persist(ctx, w.pause, func() (err error) {
		began, code := time.Now(), 0
		answer, code, err = w.post(ctx, spec)
		result = outcome(ctx, code, err)
		w.metrics.called(w.name, result, began)
		return err
	})
	if err != nil && w.onError == authorizer.DecisionNoOpinion && ctx.Err() == nil {
		w.metrics.failOpen.WithLabelValues(w.name, result).Inc()
	}
	return answer, err
}

// outcome is how an attempt ended, as a label of metrics.
func outcome(ctx context.Context, code int, err error) string {
	switch {
	case err == nil:
		return "success"
	case ctx.Err() != nil:
		return "canceled"
	case utilnet.IsTimeout(err), errors.Is(err, context.DeadlineExceeded), apierrors.IsTimeout(err), code == http.StatusGatewayTimeout:
		return "timeout"
	}
	return "error"
}

// post asks once.
func (w *webhook) post(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (answer authorizationv1.SubjectAccessReviewStatus, code int, err error) {
	// What goes wrong is in the error. A webhook that fails does not fill the log with what it says.
	ctx = klog.NewContext(ctx, logr.Discard())
	if w.older {
		review := &authorizationv1beta1.SubjectAccessReview{}
		err = w.client.Post().Body(&authorizationv1beta1.SubjectAccessReview{Spec: older(spec)}).Do(ctx).StatusCode(&code).Into(review)
		s := review.Status
		return authorizationv1.SubjectAccessReviewStatus{Allowed: s.Allowed, Denied: s.Denied, Reason: s.Reason, EvaluationError: s.EvaluationError}, code, err
	}
	review := &authorizationv1.SubjectAccessReview{}
	err = w.client.Post().Body(&authorizationv1.SubjectAccessReview{Spec: spec}).Do(ctx).StatusCode(&code).Into(review)
	return review.Status, code, err
}

// RulesFor implements authorizer.RuleResolver: a webhook is asked about one thing at a time.
func (w *webhook) RulesFor(context.Context, user.Info, string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return nil, nil, true, errors.New("webhook authorizer does not support user rule resolution")
}
