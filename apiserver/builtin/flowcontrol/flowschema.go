// Package flowcontrol holds the kinds of flowcontrol.apiserver.k8s.io, which
// configure priority and fairness.
package flowcontrol

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

const group = "flowcontrol.apiserver.k8s.io"

// Resources are the rows of the group in the order of discovery.
func Resources() []*resource.Resource {
	return []*resource.Resource{flowSchemas(), priorityLevels()}
}

func flowSchemas() *resource.Resource {
	type schema = flowcontrolv1.FlowSchema
	spec := flowcontrolv1.FlowSchemaSpec{}
	const lowestPriority = 1000
	return resource.Define[flowcontrolv1.FlowSchemaList](resource.Definition[schema]{
		Group: group, Version: "v1", Kind: "FlowSchema", Plural: "flowschemas", Older: []string{"v1beta3"},
		ClusterScoped: true,
		Default: func(s *schema) {
			if s.Spec.MatchingPrecedence == 0 {
				s.Spec.MatchingPrecedence = lowestPriority
			}
		},
		Prepare: func(s, old *schema) {
			s.Status = flowcontrolv1.FlowSchemaStatus{}
			if old != nil {
				s.Status = *old.Status.DeepCopy()
			}
		},
		Validate:   validateSchema,
		Generation: func(s, old *schema) bool { return !equality.Semantic.DeepEqual(s.Spec, old.Spec) },
		Columns: []resource.Column[*schema]{
			resource.NameColumn[*schema](),
			table.Text("PriorityLevel", table.Doc(flowcontrolv1.PriorityLevelConfigurationReference{}, "name"), func(s *schema) string { return s.Spec.PriorityLevelConfiguration.Name }),
			table.Count("MatchingPrecedence", table.Doc(spec, "matchingPrecedence"), func(s *schema) int64 { return int64(s.Spec.MatchingPrecedence) }),
			table.Text("DistinguisherMethod", table.Doc(spec, "distinguisherMethod"), func(s *schema) string {
				if s.Spec.DistinguisherMethod == nil {
					return "<none>"
				}
				return string(s.Spec.DistinguisherMethod.Type)
			}),
			resource.AgeColumn[*schema](),
			table.Text("MissingPL", "references a broken or non-existent PriorityLevelConfiguration", danglingColumn),
		},
		Subresources: []resource.Subresource[schema]{{
			Name: "status", View: true,
			Prepare: func(s, old *schema) {
				s.Spec = *old.Spec.DeepCopy()
				metav1.ResetObjectMetaForStatus(s, old)
			},
			Reset: []string{"spec", "metadata"},
			Validate: func(s, _ *schema) field.ErrorList {
				return validateConditions(s.Status.Conditions, func(c flowcontrolv1.FlowSchemaCondition) string { return string(c.Type) })
			},
		}},
	})
}

func danglingColumn(s *flowcontrolv1.FlowSchema) string {
	for _, c := range s.Status.Conditions {
		if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
			return string(c.Status)
		}
	}
	return "?"
}

func validateConditions[C any](list []C, typeOf func(C) string) field.ErrorList {
	var errs field.ErrorList
	seen := make(map[string]bool)
	for i, c := range list {
		at, name := field.NewPath("status", "conditions").Index(i).Child("type"), typeOf(c)
		if seen[name] {
			errs = append(errs, field.Duplicate(at, name))
		}
		seen[name] = true
		if name == "" {
			errs = append(errs, field.Required(at, ""))
		}
	}
	return errs
}

func validateSchema(s, _ *flowcontrolv1.FlowSchema) field.ErrorList {
	at, spec := field.NewPath("spec"), &s.Spec
	var errs field.ErrorList
	precedence := at.Child("matchingPrecedence")
	if spec.MatchingPrecedence <= 0 {
		errs = append(errs, field.Invalid(precedence, spec.MatchingPrecedence, "must be a positive value"))
	}
	if spec.MatchingPrecedence > flowcontrolv1.FlowSchemaMaxMatchingPrecedence {
		errs = append(errs, field.Invalid(precedence, spec.MatchingPrecedence, fmt.Sprintf("must not be greater than %d", flowcontrolv1.FlowSchemaMaxMatchingPrecedence)))
	}
	if spec.MatchingPrecedence == 1 && s.Name != flowcontrolv1.FlowSchemaNameExempt {
		errs = append(errs, field.Invalid(precedence, spec.MatchingPrecedence, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	methods := []flowcontrolv1.FlowDistinguisherMethodType{flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType}
	if m := spec.DistinguisherMethod; m != nil && !slices.Contains(methods, m.Type) {
		// The value shown is the method, not its type.
		errs = append(errs, field.NotSupported[flowcontrolv1.FlowDistinguisherMethodType](at.Child("distinguisherMethod", "type"), podspec.Untagged(m), methods))
	}
	if level := spec.PriorityLevelConfiguration.Name; level == "" {
		errs = append(errs, field.Required(at.Child("priorityLevelConfiguration", "name"), "must reference a priority level"))
	} else {
		errs = append(errs, check.Subdomain(level, at.Child("priorityLevelConfiguration", "name"))...)
	}
	for i := range spec.Rules {
		errs = append(errs, validateRule(&spec.Rules[i], at.Child("rules").Index(i))...)
	}
	for _, fixed := range bootstrap.MandatoryFlowSchemas {
		if fixed.Name == s.Name && !equality.Semantic.DeepEqual(fixed.Spec, s.Spec) {
			errs = append(errs, field.Invalid(at, s.Spec, fmt.Sprintf("spec of '%s' must equal the fixed value", s.Name)))
		}
	}
	return errs
}

func validateRule(r *flowcontrolv1.PolicyRulesWithSubjects, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(at.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateSubject(&r.Subjects[i], at.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules)+len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		errs = append(errs, validateResourceRule(&r.ResourceRules[i], at.Child("resourceRules").Index(i))...)
	}
	for i := range r.NonResourceRules {
		errs = append(errs, validatePathRule(&r.NonResourceRules[i], at.Child("nonResourceRules").Index(i))...)
	}
	return errs
}

// validateSubject wants exactly the member that the kind names.
func validateSubject(s *flowcontrolv1.Subject, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, check.Supported(s.Kind, at.Child("kind"), flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser)...)
	if len(errs) > 0 {
		return errs
	}
	for _, member := range []struct {
		kind     flowcontrolv1.SubjectKind
		name     string
		set      bool
		validate func() field.ErrorList
	}{
		{flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil, func() field.ErrorList { return validateAccount(s.ServiceAccount, at.Child("serviceAccount")) }},
		{flowcontrolv1.SubjectKindUser, "user", s.User != nil, func() field.ErrorList { return required(s.User.Name, at.Child("user", "name")) }},
		{flowcontrolv1.SubjectKindGroup, "group", s.Group != nil, func() field.ErrorList { return required(s.Group.Name, at.Child("group", "name")) }},
	} {
		path := at.Child(member.name)
		switch {
		case member.kind == s.Kind && !member.set:
			errs = append(errs, field.Required(path, fmt.Sprintf("%s is required when subject kind is '%s'", member.name, member.kind)))
		case member.kind == s.Kind:
			errs = append(errs, member.validate()...)
		case member.set:
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("%s is forbidden when subject kind is not '%s'", member.name, member.kind)))
		}
	}
	return errs
}

func required(value string, at *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return nil
}

func validateAccount(a *flowcontrolv1.ServiceAccountSubject, at *field.Path) field.ErrorList {
	errs := required(a.Name, at.Child("name"))
	if a.Name != "" && a.Name != flowcontrolv1.NameAll {
		errs = append(errs, check.Invalid(at.Child("name"), a.Name, validation.ValidateServiceAccountName(a.Name, false))...)
	}
	if a.Namespace == "" {
		return append(errs, field.Required(at.Child("namespace"), "must specify namespace for service account"))
	}
	return append(errs, check.Label(a.Namespace, at.Child("namespace"))...)
}

// verbs are those a rule can name, in the order of the message.
var verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}

func validateVerbs(list []string, at *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(at, "verbs must contain at least one value")}
	}
	if slices.Contains(list, "*") {
		return alone(list, at, "verbs")
	}
	for _, v := range list {
		if !slices.Contains(verbs, v) {
			return field.ErrorList{field.NotSupported(at, list, verbs)}
		}
	}
	return nil
}

// alone refuses anything beside "*".
func alone(list []string, at *field.Path, what string) field.ErrorList {
	if len(list) > 1 && slices.Contains(list, "*") {
		return field.ErrorList{field.Invalid(at, list, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

func validateResourceRule(r *flowcontrolv1.ResourcePolicyRule, at *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, at.Child("verbs"))
	if len(r.APIGroups) == 0 {
		errs = append(errs, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
	}
	errs = append(errs, alone(r.APIGroups, at.Child("apiGroups"), "api groups")...)
	if len(r.Resources) == 0 {
		errs = append(errs, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
	}
	errs = append(errs, alone(r.Resources, at.Child("resources"), "resources")...)
	namespaces := at.Child("namespaces")
	if len(r.Namespaces) == 0 && !r.ClusterScope {
		errs = append(errs, field.Required(namespaces, "resource rules that are not cluster scoped must supply at least one namespace"))
	}
	if slices.Contains(r.Namespaces, "*") {
		return append(errs, alone(r.Namespaces, namespaces, "namespaces")...)
	}
	for i, ns := range r.Namespaces {
		for _, msg := range validation.ValidateNamespaceName(ns, false) {
			errs = append(errs, field.Invalid(namespaces.Index(i), ns, "each member of this list must be '*' or a DNS-1123 label; "+msg))
		}
	}
	return errs
}

func validatePathRule(r *flowcontrolv1.NonResourcePolicyRule, at *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, at.Child("verbs"))
	urls := at.Child("nonResourceURLs")
	if len(r.NonResourceURLs) == 0 {
		return append(errs, field.Required(urls, "nonResourceURLs must contain at least one value"))
	}
	if slices.Contains(r.NonResourceURLs, "*") {
		return append(errs, alone(r.NonResourceURLs, urls, "non-resource URLs")...)
	}
	for i, path := range r.NonResourceURLs {
		if msg := wrongPath(path); msg != "" {
			errs = append(errs, field.Invalid(urls.Index(i), path, msg))
		}
	}
	return errs
}

// wrongPath is what is wrong with a path that may end in a wildcard.
func wrongPath(path string) string {
	stars := strings.Count(path, "*")
	switch {
	case path == "":
		return "must not be empty"
	case path == "/":
		return ""
	case !strings.HasPrefix(path, "/"):
		return "must start with slash"
	case strings.Contains(path, " "):
		return "must not contain white-space"
	case strings.Contains(path, "//"):
		return "must not contain double slash"
	case stars > 1 || stars == 1 && !strings.HasSuffix(path, "/*"):
		return "wildcard can only do suffix matching"
	}
	return ""
}
