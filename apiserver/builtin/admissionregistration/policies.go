package admissionregistration

import (
	"fmt"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/jsonpath"

	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

type (
	validatingPolicy  = admissionregistrationv1.ValidatingAdmissionPolicy
	validatingBinding = admissionregistrationv1.ValidatingAdmissionPolicyBinding
	mutatingPolicy    = admissionregistrationv1.MutatingAdmissionPolicy
	mutatingBinding   = admissionregistrationv1.MutatingAdmissionPolicyBinding
)

const unset = "<unset>"

func validatingPolicies() *resource.Resource {
	return resource.Define[admissionregistrationv1.ValidatingAdmissionPolicyList](resource.Definition[validatingPolicy]{
		Group: group, Version: "v1", Kind: "ValidatingAdmissionPolicy", Plural: "validatingadmissionpolicies", Older: []string{"v1beta1"},
		Categories: []string{"api-extensions"}, ClusterScoped: true, NeedsVersion: true, Meta: resource.MetaAnyFinalizer,
		Default: func(p *validatingPolicy) {
			setDefault(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
			defaultMatch(p.Spec.MatchConstraints)
		},
		Prepare: func(p, old *validatingPolicy) {
			p.Status = admissionregistrationv1.ValidatingAdmissionPolicyStatus{}
			if old != nil {
				p.Status = *old.Status.DeepCopy()
			}
		},
		Validate:   validateValidatingPolicy,
		Warn:       func(p, _ *validatingPolicy) []string { return warnSuffix(p.Name) },
		Generation: func(p, old *validatingPolicy) bool { return !equality.Semantic.DeepEqual(p.Spec, old.Spec) },
		Columns: []resource.Column[*validatingPolicy]{
			resource.NameColumn[*validatingPolicy](),
			table.Number("Validations", "Validations indicates the number of validation rules defined in this configuration", func(p *validatingPolicy) int64 { return int64(len(p.Spec.Validations)) }),
			table.Text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy", func(p *validatingPolicy) string { return shownKind(p.Spec.ParamKind) }),
			resource.AgeColumn[*validatingPolicy](),
		},
		Subresources: []resource.Subresource[validatingPolicy]{{
			Name: "status", View: true,
			Prepare: func(p, old *validatingPolicy) {
				p.Spec = *old.Spec.DeepCopy()
				metav1.ResetObjectMetaForStatus(p, old)
			},
			Reset:    []string{"spec", "metadata"},
			Validate: func(p, _ *validatingPolicy) field.ErrorList { return validateStatus(&p.Status) },
			Warn:     func(p, _ *validatingPolicy) []string { return warnSuffix(p.Name) },
		}},
	})
}

func validatingBindings() *resource.Resource {
	return resource.Define[admissionregistrationv1.ValidatingAdmissionPolicyBindingList](resource.Definition[validatingBinding]{
		Group: group, Version: "v1", Kind: "ValidatingAdmissionPolicyBinding", Plural: "validatingadmissionpolicybindings", Older: []string{"v1beta1"},
		Categories: []string{"api-extensions"}, ClusterScoped: true, NeedsVersion: true, Meta: resource.MetaAnyFinalizer,
		Default: func(b *validatingBinding) { defaultMatch(b.Spec.MatchResources) },
		Validate: func(b, _ *validatingBinding) field.ErrorList {
			errs := validateBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
			return append(errs, validateActions(b.Spec.ValidationActions, field.NewPath("spec", "validationActions"))...)
		},
		Warn:       func(b, _ *validatingBinding) []string { return warnSuffix(b.Name) },
		Generation: func(b, old *validatingBinding) bool { return !equality.Semantic.DeepEqual(b.Spec, old.Spec) },
		Columns: []resource.Column[*validatingBinding]{
			resource.NameColumn[*validatingBinding](),
			table.Text("PolicyName", policyColumn, func(b *validatingBinding) string { return b.Spec.PolicyName }),
			table.Text("ParamRef", paramColumn, func(b *validatingBinding) string { return shownParam(b.Spec.ParamRef) }),
			resource.AgeColumn[*validatingBinding](),
		},
	})
}

func mutatingPolicies() *resource.Resource {
	return resource.Define[admissionregistrationv1.MutatingAdmissionPolicyList](resource.Definition[mutatingPolicy]{
		Group: group, Version: "v1", Kind: "MutatingAdmissionPolicy", Plural: "mutatingadmissionpolicies", Older: []string{"v1beta1"},
		Categories: []string{"api-extensions"}, ClusterScoped: true, NeedsVersion: true, Meta: resource.MetaAnyFinalizer,
		Default: func(p *mutatingPolicy) {
			setDefault(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
			defaultMatch(p.Spec.MatchConstraints)
		},
		Validate:   validateMutatingPolicy,
		Warn:       func(p, _ *mutatingPolicy) []string { return warnSuffix(p.Name) },
		Generation: func(p, old *mutatingPolicy) bool { return !equality.Semantic.DeepEqual(p.Spec, old.Spec) },
		Columns: []resource.Column[*mutatingPolicy]{
			resource.NameColumn[*mutatingPolicy](),
			table.Number("Mutations", "Mutation indicates the number of mutations rules defined in this configuration", func(p *mutatingPolicy) int64 { return int64(len(p.Spec.Mutations)) }),
			table.Text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy", func(p *mutatingPolicy) string { return shownKind(p.Spec.ParamKind) }),
			resource.AgeColumn[*mutatingPolicy](),
		},
	})
}

func mutatingBindings() *resource.Resource {
	return resource.Define[admissionregistrationv1.MutatingAdmissionPolicyBindingList](resource.Definition[mutatingBinding]{
		Group: group, Version: "v1", Kind: "MutatingAdmissionPolicyBinding", Plural: "mutatingadmissionpolicybindings", Older: []string{"v1beta1"},
		Categories: []string{"api-extensions"}, ClusterScoped: true, NeedsVersion: true, Meta: resource.MetaAnyFinalizer,
		Default: func(b *mutatingBinding) { defaultMatch(b.Spec.MatchResources) },
		Validate: func(b, _ *mutatingBinding) field.ErrorList {
			errs := validateBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
			if m := b.Spec.MatchResources; m != nil {
				errs = append(errs, onlyMutable(m.ResourceRules, field.NewPath("spec", "matchResources", "resourceRules", "operations"))...)
			}
			return errs
		},
		Warn:       func(b, _ *mutatingBinding) []string { return warnSuffix(b.Name) },
		Generation: func(b, old *mutatingBinding) bool { return !equality.Semantic.DeepEqual(b.Spec, old.Spec) },
		Columns: []resource.Column[*mutatingBinding]{
			resource.NameColumn[*mutatingBinding](),
			table.Text("PolicyName", policyColumn, func(b *mutatingBinding) string { return b.Spec.PolicyName }),
			table.Text("ParamRef", paramColumn, func(b *mutatingBinding) string { return shownParam(b.Spec.ParamRef) }),
			resource.AgeColumn[*mutatingBinding](),
		},
	})
}

const (
	policyColumn = "PolicyName indicates the policy definition which the policy binding binded to"
	paramColumn  = "ParamRef indicates the param resource which sets the configuration param"
)

func shownKind(k *admissionregistrationv1.ParamKind) string {
	if k == nil {
		return unset
	}
	return k.APIVersion + "/" + k.Kind
}

func shownParam(ref *admissionregistrationv1.ParamRef) string {
	switch {
	case ref == nil:
		return unset
	case ref.Name != "" && ref.Namespace != "":
		return ref.Namespace + "/" + ref.Name
	case ref.Name != "":
		return "*/" + ref.Name
	case ref.Selector != nil:
		return ref.Selector.String()
	}
	return unset
}

func defaultMatch(m *admissionregistrationv1.MatchResources) {
	if m == nil {
		return
	}
	setDefault(&m.MatchPolicy, admissionregistrationv1.Equivalent)
	defaultSelectors(&m.NamespaceSelector, &m.ObjectSelector)
	for _, rules := range [][]admissionregistrationv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			setDefault(&rules[i].Scope, admissionregistrationv1.AllScopes)
		}
	}
}

// warnSuffix tells that a name is of those that policies from files will have.
func warnSuffix(name string) []string {
	if !strings.HasSuffix(name, staticSuffix) {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: names ending with %q are reserved for static manifest-based configurations and cannot be managed via the API", staticSuffix)}
}

const staticSuffix = ".static.k8s.io"

// validateStatus lists what is wrong with what type checking found.
func validateStatus(s *admissionregistrationv1.ValidatingAdmissionPolicyStatus) field.ErrorList {
	at := field.NewPath("status")
	var errs field.ErrorList
	if s.TypeChecking != nil {
		for i, w := range s.TypeChecking.ExpressionWarnings {
			place := at.Child("typeChecking", "expressionWarnings").Index(i)
			if w.Warning == "" {
				errs = append(errs, field.Required(place.Child("warning"), ""))
			}
			errs = append(errs, validateFieldRef(strings.TrimSpace(w.FieldRef), place.Child("fieldRef"))...)
		}
	}
	return append(errs, metav1validation.ValidateConditions(s.Conditions, at.Child("conditions"))...)
}

func validateFieldRef(ref string, at *field.Path) field.ErrorList {
	if ref == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	if err := jsonpath.New("spec").Parse("{" + ref + "}"); err != nil {
		return field.ErrorList{field.Invalid(at, ref, fmt.Sprintf("invalid JSONPath: %v", err))}
	}
	return nil
}
