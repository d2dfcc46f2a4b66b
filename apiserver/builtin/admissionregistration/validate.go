package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
)

type webhook = admissionregistrationv1.MutatingWebhook

// reviewVersions are the versions of AdmissionReview this server speaks.
var reviewVersions = []string{"v1", "v1beta1"}

// allowances are what a configuration may keep because it had it before a rule was made against it.
type allowances struct {
	sideEffects, otherVersions, sameNames, badSelectors, conditions bool
	// expressions have been accepted before.
	expressions map[string]bool
}

func allow(old, webhooks []webhook) allowances {
	a := allowances{
		sideEffects:   !noSideEffects(old),
		otherVersions: !knownVersions(old),
		sameNames:     !uniqueNames(old),
		badSelectors:  slices.ContainsFunc(old, func(w webhook) bool { return len(selectors(&w, nil, false)) > 0 }),
		conditions:    sameConditions(webhooks, old),
		expressions:   make(map[string]bool),
	}
	for _, w := range old {
		for _, c := range w.MatchConditions {
			a.expressions[c.Expression] = true
		}
	}
	return a
}

func noSideEffects(webhooks []webhook) bool {
	return !slices.ContainsFunc(webhooks, func(w webhook) bool { return w.SideEffects == nil || !slices.Contains(harmless, *w.SideEffects) })
}

func knownVersions(webhooks []webhook) bool {
	return !slices.ContainsFunc(webhooks, func(w webhook) bool {
		return len(w.AdmissionReviewVersions) > 0 && !anyKnown(w.AdmissionReviewVersions)
	})
}

func anyKnown(versions []string) bool {
	return slices.ContainsFunc(versions, func(v string) bool { return slices.Contains(reviewVersions, v) })
}

func uniqueNames(webhooks []webhook) bool {
	names := make(map[string]bool)
	for _, w := range webhooks {
		names[w.Name] = true
	}
	return len(names) == len(webhooks)
}

func sameConditions(webhooks, old []webhook) bool {
	return slices.EqualFunc(webhooks, old, func(w, o webhook) bool { return equality.Semantic.DeepEqual(w.MatchConditions, o.MatchConditions) })
}

// validate lists what is wrong with the webhooks of a configuration. old is nil on create.
func validate(webhooks []webhook, old *[]webhook) field.ErrorList {
	var a allowances
	if old != nil {
		a = allow(*old, webhooks)
	}
	var errs field.ErrorList
	names := make(map[string]bool)
	for i := range webhooks {
		w, at := &webhooks[i], field.NewPath("webhooks").Index(i)
		errs = append(errs, validateWebhook(w, a, at)...)
		errs = append(errs, validateVersions(w.AdmissionReviewVersions, a, at.Child("admissionReviewVersions"))...)
		if a.sameNames || w.Name == "" {
			continue
		}
		if names[w.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), w.Name))
		}
		names[w.Name] = true
	}
	return errs
}

var (
	harmless = []admissionregistrationv1.SideEffectClass{admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.SideEffectClassNoneOnDryRun}
	effects  = []admissionregistrationv1.SideEffectClass{admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.SideEffectClassNoneOnDryRun,
		admissionregistrationv1.SideEffectClassSome, admissionregistrationv1.SideEffectClassUnknown}
)

func validateWebhook(w *webhook, a allowances, at *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(at.Child("name"), w.Name)
	for i := range w.Rules {
		errs = append(errs, validateRule(&w.Rules[i], at.Child("rules").Index(i))...)
	}
	errs = append(errs, supported(w.FailurePolicy, at.Child("failurePolicy"), admissionregistrationv1.Fail, admissionregistrationv1.Ignore)...)
	errs = append(errs, supported(w.MatchPolicy, at.Child("matchPolicy"), admissionregistrationv1.Equivalent, admissionregistrationv1.Exact)...)
	errs = append(errs, validateEffects(w.SideEffects, a, at.Child("sideEffects"))...)
	if t := w.TimeoutSeconds; t != nil && (*t > 30 || *t < 1) {
		errs = append(errs, field.Invalid(at.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, selectors(w, at, a.badSelectors)...)
	errs = append(errs, supported(w.ReinvocationPolicy, at.Child("reinvocationPolicy"), admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)...)
	errs = append(errs, validateClient(w.ClientConfig, at.Child("clientConfig"))...)
	if a.conditions {
		return errs
	}
	return append(errs, validateHookConditions(w.MatchConditions, a.expressions, at.Child("matchConditions"))...)
}

// supported is check.Supported for a field that may be absent.
func supported[T ~string](value *T, at *field.Path, values ...T) field.ErrorList {
	if value == nil {
		return nil
	}
	return check.Supported(*value, at, values...)
}

func validateEffects(class *admissionregistrationv1.SideEffectClass, a allowances, at *field.Path) field.ErrorList {
	allowed := harmless
	if a.sideEffects {
		allowed = effects
	}
	if class != nil {
		return check.Supported(*class, at, allowed...)
	}
	var names []string
	for _, c := range allowed {
		names = append(names, string(c))
	}
	return field.ErrorList{field.Required(at, "must specify one of "+strings.Join(names, ", "))}
}

// selectors lists what is wrong with the selectors of w. lax: values of labels may be what clients like.
func selectors(w *webhook, at *field.Path, lax bool) field.ErrorList {
	options := metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: lax}
	var errs field.ErrorList
	if w.NamespaceSelector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(w.NamespaceSelector, options, at.Child("namespaceSelector"))...)
	}
	if w.ObjectSelector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(w.ObjectSelector, options, at.Child("objectSelector"))...)
	}
	return errs
}

func validateVersions(versions []string, a allowances, at *field.Path) field.ErrorList {
	known := strings.Join(reviewVersions, ", ")
	if len(versions) == 0 {
		return field.ErrorList{field.Required(at, "must specify one of "+known)}
	}
	var errs field.ErrorList
	for i, v := range versions {
		if slices.Contains(versions[:i], v) {
			errs = append(errs, field.Invalid(at.Index(i), v, "duplicate version"))
			continue
		}
		errs = append(errs, check.Invalid(at.Index(i), v, validation.IsDNS1035Label(v))...)
	}
	if !a.otherVersions && !anyKnown(versions) {
		errs = append(errs, field.Invalid(at, versions, fmt.Sprintf("must include at least one of %s", known)))
	}
	return errs
}
