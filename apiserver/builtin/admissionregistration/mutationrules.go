package admissionregistration

import (
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/expression"
)

func validateMutatingPolicy(p, old *mutatingPolicy) field.ErrorList {
	at, spec := field.NewPath("spec"), &p.Spec
	e := newExpressions(spec.ParamKind, true)
	sameConditions := false
	if old != nil {
		e.conditions = textsOf(old.Spec.MatchConditions, conditionText)
		e.mutations = textsOf(old.Spec.Mutations, mutationText)
		sameConditions = equality.Semantic.DeepEqual(spec.ParamKind, old.Spec.ParamKind) && equality.Semantic.DeepEqual(spec.MatchConditions, old.Spec.MatchConditions)
	}
	errs := validatePolicy(spec.FailurePolicy, spec.ParamKind, spec.MatchConstraints, at)
	if m := spec.MatchConstraints; m != nil {
		errs = append(errs, onlyMutable(m.ResourceRules, at.Child("matchConstraints", "resourceRules", "operations"))...)
	}
	if !sameConditions {
		errs = append(errs, e.validateConditions(spec.MatchConditions, at.Child("matchConditions"))...)
	}
	errs = append(errs, e.validateVariables(spec.Variables, at.Child("variables"))...)
	if len(spec.Mutations) == 0 {
		errs = append(errs, field.Required(at.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range spec.Mutations {
		errs = append(errs, e.validateMutation(&spec.Mutations[i], at.Child("mutations").Index(i))...)
	}
	return append(errs, check.OneOf(spec.ReinvocationPolicy, at.Child("reinvocationPolicy"),
		admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)...)
}

func mutationText(m admissionregistrationv1.Mutation) string {
	switch {
	case m.ApplyConfiguration != nil:
		return m.ApplyConfiguration.Expression
	case m.JSONPatch != nil:
		return m.JSONPatch.Expression
	}
	return ""
}

// onlyMutable refuses rules about operations that have no object to change.
func onlyMutable(rules []admissionregistrationv1.NamedRuleWithOperations, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, r := range rules {
		for _, o := range r.Operations {
			errs = append(errs, check.Supported(o, at, admissionregistrationv1.OperationAll, admissionregistrationv1.Connect, admissionregistrationv1.Create, admissionregistrationv1.Update)...)
		}
	}
	return errs
}

func (e expressions) validateMutation(m *admissionregistrationv1.Mutation, at *field.Path) field.ErrorList {
	apply, patch := at.Child("applyConfiguration"), at.Child("jsonPatch")
	var errs field.ErrorList
	switch m.PatchType {
	case "":
		errs = append(errs, field.Required(at.Child("patchType"), ""))
	case admissionregistrationv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			errs = append(errs, field.Required(patch, "must be specified when patchType is JSONPatch"))
		} else {
			errs = append(errs, e.validateChange(m.JSONPatch.Expression, patch.Child("expression"), expression.Patches)...)
		}
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
		}
	case admissionregistrationv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			errs = append(errs, field.Required(apply, "must be specified when patchType is ApplyConfiguration"))
		} else {
			errs = append(errs, e.validateChange(m.ApplyConfiguration.Expression, apply.Child("expression"), expression.Object)...)
		}
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(patch, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("patchType"), m.PatchType,
			[]admissionregistrationv1.PatchType{admissionregistrationv1.PatchTypeApplyConfiguration, admissionregistrationv1.PatchTypeJSONPatch}))
	}
	return errs
}

func (e expressions) validateChange(text string, at *field.Path, result *expression.Type) field.ErrorList {
	trimmed := strings.TrimSpace(text)
	if trimmed == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	sees := e.sees()
	sees.Patches = true
	return wrong(e.Compile(trimmed, sees, e.mutations[text], result), trimmed, at)
}
