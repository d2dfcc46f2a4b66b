package authz

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/expression"
)

// validate says in kube-apiserver's words what is wrong with a file. Without errors all entries are returned.
func validate(file *apiserverv1.AuthorizationConfiguration) (order []entry, problems field.ErrorList) {
	path := field.NewPath("authorizers")
	if len(file.Authorizers) == 0 {
		problems = append(problems, field.Required(path, "at least one authorization mode must be defined"))
	}
	var kinds, names []string
	for i, a := range file.Authorizers {
		path := path.Index(i)
		if err := validateType(path.Child("type"), a.Type, kinds); err != nil {
			problems = append(problems, err)
			continue
		}
		kinds = append(kinds, a.Type)
		if err := validateName(path.Child("name"), a.Name, names); err != nil {
			problems = append(problems, err)
		}
		names = append(names, a.Name)
		e := entry{AuthorizerConfiguration: a}
		switch {
		case a.Type != typeWebhook && a.Webhook != nil:
			problems = append(problems, field.Invalid(path.Child("webhook"), "non-null", "may only be specified when type=Webhook"))
		case a.Type == typeWebhook && a.Webhook == nil:
			problems = append(problems, field.Required(path.Child("webhook"), "required when type=Webhook"))
		case a.Type == typeWebhook:
			problems = append(problems, validateWebhook(path, a.Webhook)...)
			var errs field.ErrorList
			e.conditions, errs = compileAll(path.Child("matchConditions"), a.Webhook.MatchConditions)
			problems = append(problems, errs...)
		}
		order = append(order, e)
	}
	return order, problems
}

// validateType allows a type once, that of webhooks as often as anybody likes.
func validateType(path *field.Path, kind string, seen []string) *field.Error {
	switch {
	case kind == "":
		return field.Required(path, "")
	case !slices.Contains(types, kind):
		return field.NotSupported(path, kind, types)
	case kind != typeWebhook && slices.Contains(seen, kind):
		return field.Duplicate(path, kind)
	}
	return nil
}

func validateName(path *field.Path, name string, seen []string) *field.Error {
	switch {
	case name == "":
		return field.Required(path, "")
	case slices.Contains(seen, name):
		return field.Duplicate(path, name)
	}
	if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
		return field.Invalid(path, name, "authorizer name is invalid: "+strings.Join(errs, ", "))
	}
	return nil
}

// mostTimeout is how long a webhook may be given to answer.
const mostTimeout = 30 * time.Second

func validateWebhook(path *field.Path, w *apiserverv1.WebhookConfiguration) (problems field.ErrorList) {
	switch d := w.Timeout.Duration; {
	case d == 0:
		problems = append(problems, field.Required(path.Child("timeout"), ""))
	case d < 0 || d > mostTimeout:
		problems = append(problems, field.Invalid(path.Child("timeout"), d.String(), "must be > 0s and <= 30s"))
	}
	for _, ttl := range []struct {
		name  string
		value time.Duration
	}{{"authorizedTTL", w.AuthorizedTTL.Duration}, {"unauthorizedTTL", w.UnauthorizedTTL.Duration}} {
		if ttl.value < 0 {
			problems = append(problems, field.Invalid(path.Child(ttl.name), ttl.value.String(), "must be > 0s"))
		}
	}
	problems = append(problems, oneOf(path.Child("subjectAccessReviewVersion"), w.SubjectAccessReviewVersion, "v1", "v1beta1")...)
	about := path.Child("matchConditionSubjectAccessReviewVersion")
	switch {
	case w.MatchConditionSubjectAccessReviewVersion != "":
		problems = append(problems, oneOf(about, w.MatchConditionSubjectAccessReviewVersion, "v1")...)
	case len(w.MatchConditions) > 0:
		problems = append(problems, field.Required(about, "required if match conditions are specified"))
	}
	problems = append(problems, oneOf(path.Child("failurePolicy"), w.FailurePolicy, apiserverv1.FailurePolicyNoOpinion, apiserverv1.FailurePolicyDeny)...)
	return append(problems, validateConnection(path.Child("connectionInfo"), w.ConnectionInfo)...)
}

// oneOf wants a value that is one of some.
func oneOf(path *field.Path, value string, some ...string) field.ErrorList {
	switch {
	case value == "":
		return field.ErrorList{field.Required(path, "")}
	case !slices.Contains(some, value):
		return field.ErrorList{field.NotSupported(path, value, some)}
	}
	return nil
}

// validateConnection refuses InClusterConfig, which asks the API server of the cluster: that is who asks here.
func validateConnection(path *field.Path, c apiserverv1.WebhookConnectionInfo) field.ErrorList {
	const inCluster, kubeconfig = apiserverv1.AuthorizationWebhookConnectionInfoTypeInCluster, apiserverv1.AuthorizationWebhookConnectionInfoTypeKubeConfigFile
	file := path.Child("kubeConfigFile")
	switch c.Type {
	case "":
		return field.ErrorList{field.Required(path.Child("type"), "")}
	case inCluster:
		if c.KubeConfigFile != nil {
			return field.ErrorList{field.Invalid(file, *c.KubeConfigFile, "can only be set when type=KubeConfigFile")}
		}
		return field.ErrorList{field.Invalid(path.Child("type"), c.Type, "is not allowed for the API server of the cluster, which would ask itself")}
	case kubeconfig:
		if c.KubeConfigFile == nil || *c.KubeConfigFile == "" {
			return field.ErrorList{field.Required(file, "")}
		}
		if problem := unreadable(*c.KubeConfigFile); problem != "" {
			return field.ErrorList{field.Invalid(file, *c.KubeConfigFile, problem)}
		}
		return nil
	}
	shown := connection{c.Type, c.KubeConfigFile}
	return field.ErrorList{field.NotSupported(path.Child("type"), shown, []string{inCluster, kubeconfig})}
}

// connection is shown in messages by kube-apiserver's names of its fields.
type connection struct {
	Type           string
	KubeConfigFile *string
}

// unreadable says why the file at path cannot be a kubeconfig; "": it can.
func unreadable(path string) string {
	if !filepath.IsAbs(path) {
		return "must be an absolute path"
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Sprintf("error loading file: %v", err)
	case !info.Mode().IsRegular():
		return "must be a regular file"
	}
	return ""
}

// mostConditions is how many match conditions a webhook may have.
const mostConditions = 64

func compileAll(path *field.Path, conditions []apiserverv1.WebhookMatchCondition) (compiled []*expression.Question, problems field.ErrorList) {
	if len(conditions) > mostConditions {
		return nil, field.ErrorList{field.TooMany(path, len(conditions), mostConditions)}
	}
	var seen []string
	for i, c := range conditions {
		path := path.Index(i).Child("expression")
		switch {
		case strings.TrimSpace(c.Expression) == "":
			problems = append(problems, field.Required(path, ""))
			continue
		case slices.Contains(seen, c.Expression):
			problems = append(problems, field.Duplicate(path, c.Expression))
			continue
		}
		seen = append(seen, c.Expression)
		question, err := expression.CompileQuestion(c.Expression)
		switch {
		case expression.IsInternal(err):
			problems = append(problems, field.InternalError(path, err))
		case err != nil:
			problems = append(problems, field.Invalid(path, c.Expression, err.Error()))
		default:
			compiled = append(compiled, question)
		}
	}
	return compiled, problems
}

// wantsDeny reports whether a webhook that fails denies.
func wantsDeny(w *apiserverv1.WebhookConfiguration) bool {
	return w.FailurePolicy == apiserverv1.FailurePolicyDeny
}

// ttls are how long answers of a webhook hold.
func ttls(w *apiserverv1.WebhookConfiguration) (allowed, refused time.Duration) {
	if ptr.Deref(w.CacheAuthorizedRequests, true) {
		allowed = w.AuthorizedTTL.Duration
	}
	if ptr.Deref(w.CacheUnauthorizedRequests, true) {
		refused = w.UnauthorizedTTL.Duration
	}
	return allowed, refused
}
