// Package policy holds the kinds of the group policy.
package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Resources are the rows of the group in the order of discovery.
func Resources() []*resource.Resource { return []*resource.Resource{podDisruptionBudgets()} }

func podDisruptionBudgets() *resource.Resource {
	type budget = policyv1.PodDisruptionBudget
	return resource.Define[policyv1.PodDisruptionBudgetList](resource.Definition[budget]{
		Group: "policy", Version: "v1", Kind: "PodDisruptionBudget", Plural: "poddisruptionbudgets", ShortNames: []string{"pdb"},
		Prepare: func(b, old *budget) {
			b.Status = policyv1.PodDisruptionBudgetStatus{}
			if old != nil {
				b.Status = *old.Status.DeepCopy()
			}
		},
		Validate:     validateBudget,
		Meta:         resource.MetaLax,
		Generation:   func(b, old *budget) bool { return !equality.Semantic.DeepEqual(b.Spec, old.Spec) },
		NeedsVersion: true,
		Columns: []resource.Column[*budget]{
			resource.NameColumn[*budget](),
			table.Text("Min Available", "The minimum number of pods that must be available.", func(b *budget) string { return orNA(b.Spec.MinAvailable) }),
			table.Text("Max Unavailable", "The maximum number of pods that may be unavailable.", func(b *budget) string { return orNA(b.Spec.MaxUnavailable) }),
			table.Number("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time.", func(b *budget) int64 { return int64(b.Status.DisruptionsAllowed) }),
			resource.AgeColumn[*budget](),
		},
		Subresources: []resource.Subresource[budget]{{
			Name: "status", View: true,
			Prepare:  func(b, old *budget) { b.Spec = *old.Spec.DeepCopy() },
			Validate: validateBudgetStatus,
		}},
	})
}

func validateBudget(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if b.Spec.MinAvailable != nil && b.Spec.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(path, podspec.Untagged(b.Spec), "minAvailable and maxUnavailable cannot be both set"))
	}
	errs = append(errs, validateAmount(b.Spec.MinAvailable, path.Child("minAvailable"))...)
	errs = append(errs, validateAmount(b.Spec.MaxUnavailable, path.Child("maxUnavailable"))...)
	options := metav1validation.LabelSelectorValidationOptions{}
	if old != nil {
		options.AllowInvalidLabelValueInSelector = len(metav1validation.ValidateLabelSelector(old.Spec.Selector, options, nil)) > 0
	}
	errs = append(errs, metav1validation.ValidateLabelSelector(b.Spec.Selector, options, path.Child("selector"))...)
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil {
		errs = append(errs, check.Supported(*p, path.Child("unhealthyPodEvictionPolicy"), policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}

func validateAmount(n *intstr.IntOrString, path *field.Path) field.ErrorList {
	if n == nil {
		return nil
	}
	return append(check.CountOrPercent(*n, path), check.AtMostAll(*n, path)...)
}

func validateBudgetStatus(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	path := field.NewPath("status")
	errs := metav1validation.ValidateConditions(b.Status.Conditions, path.Child("conditions"))
	for _, f := range []struct {
		name  string
		value int32
	}{
		{"disruptionsAllowed", b.Status.DisruptionsAllowed}, {"currentHealthy", b.Status.CurrentHealthy},
		{"desiredHealthy", b.Status.DesiredHealthy}, {"expectedPods", b.Status.ExpectedPods},
	} {
		errs = append(errs, validation.ValidateNonnegativeField(int64(f.value), path.Child(f.name))...)
	}
	return errs
}

func orNA(n *intstr.IntOrString) string {
	if n == nil {
		return "N/A"
	}
	return n.String()
}
