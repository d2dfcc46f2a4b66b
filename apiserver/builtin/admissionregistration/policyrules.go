package admissionregistration

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/expression"
)

const (
	maxAnnotations          = 20
	maxAnnotationExpression = 5 * 1024 // bytes
)

// expressions compiles the expressions of one policy for its validation.
type expressions struct {
	*expression.Compiler
	params bool
	// Those the policy had before, by what they are for: they may use what new ones may not yet.
	conditions, validations, messages, annotations, mutations map[string]bool
}

func newExpressions(kind *admissionregistrationv1.ParamKind, composes bool) expressions {
	return expressions{Compiler: expression.NewCompiler(composes), params: kind != nil}
}

func (e expressions) sees() expression.Sees {
	return expression.Sees{Params: e.params, Authorizer: true}
}

// wrong is what validation says of an expression, shown as the error has it.
func wrong(x *expression.Expression, shown string, at *field.Path) field.ErrorList {
	err := x.Err()
	switch {
	case err == nil:
		return nil
	case expression.IsInternal(err):
		return field.ErrorList{field.InternalError(at, err)}
	}
	return field.ErrorList{field.Invalid(at, shown, err.Error())}
}

func textsOf[T any](list []T, text func(T) string) map[string]bool {
	all := make(map[string]bool, len(list))
	for _, item := range list {
		all[text(item)] = true
	}
	return all
}

func conditionText(c admissionregistrationv1.MatchCondition) string { return c.Expression }

func validateValidatingPolicy(p, old *validatingPolicy) field.ErrorList {
	at, spec := field.NewPath("spec"), &p.Spec
	e := newExpressions(spec.ParamKind, len(spec.Variables) > 0)
	sameConditions := false
	if old != nil {
		e.conditions = textsOf(old.Spec.MatchConditions, conditionText)
		e.validations = textsOf(old.Spec.Validations, func(v admissionregistrationv1.Validation) string { return v.Expression })
		e.messages = textsOf(old.Spec.Validations, func(v admissionregistrationv1.Validation) string { return v.MessageExpression })
		e.annotations = textsOf(old.Spec.AuditAnnotations, func(a admissionregistrationv1.AuditAnnotation) string { return a.ValueExpression })
		sameConditions = equality.Semantic.DeepEqual(spec.ParamKind, old.Spec.ParamKind) && equality.Semantic.DeepEqual(spec.MatchConditions, old.Spec.MatchConditions)
	}
	errs := validatePolicy(spec.FailurePolicy, spec.ParamKind, spec.MatchConstraints, at)
	if !sameConditions {
		errs = append(errs, e.validateConditions(spec.MatchConditions, at.Child("matchConditions"))...)
	}
	errs = append(errs, e.validateVariables(spec.Variables, at.Child("variables"))...)
	if len(spec.Validations)+len(spec.AuditAnnotations) == 0 {
		const text = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(at.Child("validations"), text), field.Required(at.Child("auditAnnotations"), text))
	}
	for i := range spec.Validations {
		errs = append(errs, e.validateValidation(&spec.Validations[i], at.Child("validations").Index(i))...)
	}
	return append(errs, e.validateAnnotations(p.Name, spec.AuditAnnotations, at.Child("auditAnnotations"))...)
}

// validatePolicy judges what both kinds of policies have.
func validatePolicy(failure *admissionregistrationv1.FailurePolicyType, kind *admissionregistrationv1.ParamKind, match *admissionregistrationv1.MatchResources, at *field.Path) field.ErrorList {
	errs := needed(failure, at.Child("failurePolicy"), admissionregistrationv1.Fail, admissionregistrationv1.Ignore)
	if kind != nil {
		errs = append(errs, validateParamKind(*kind, at.Child("paramKind"))...)
	}
	if match == nil {
		return append(errs, field.Required(at.Child("matchConstraints"), ""))
	}
	errs = append(errs, validateMatch(match, at.Child("matchConstraints"))...)
	if len(match.ResourceRules) == 0 {
		errs = append(errs, field.Required(at.Child("matchConstraints", "resourceRules"), ""))
	}
	return errs
}

// needed is supported for a field that must be there.
func needed[T ~string](value *T, at *field.Path, values ...T) field.ErrorList {
	if value == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	return check.Supported(*value, at, values...)
}

func validateParamKind(k admissionregistrationv1.ParamKind, at *field.Path) field.ErrorList {
	errs := validateAPIVersion(k.APIVersion, at.Child("apiVersion"))
	if k.Kind == "" {
		return append(errs, field.Required(at.Child("kind"), ""))
	}
	if problems := utilvalidation.IsDNS1035Label(strings.ToLower(k.Kind)); len(problems) > 0 {
		errs = append(errs, field.Invalid(at.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(problems, ",")))
	}
	return errs
}

func validateAPIVersion(text string, at *field.Path) field.ErrorList {
	if text == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	group, version, found := strings.Cut(text, "/")
	switch {
	case !found:
		group, version = "", text
	case text != "/" && strings.Contains(version, "/"):
		return field.ErrorList{field.Invalid(at, text, "unexpected GroupVersion string: "+text)}
	}
	var errs field.ErrorList
	if group != "" {
		errs = append(errs, joined(group, at, utilvalidation.IsDNS1123Subdomain(group))...)
	}
	if version == "" {
		return append(errs, field.Invalid(at, text, "version must be specified"))
	}
	return append(errs, joined(version, at, utilvalidation.IsDNS1035Label(version))...)
}

// joined makes one error of all that is wrong with a value.
func joined(value string, at *field.Path, problems []string) field.ErrorList {
	if len(problems) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(at, value, strings.Join(problems, ","))}
}

func validateMatch(m *admissionregistrationv1.MatchResources, at *field.Path) field.ErrorList {
	errs := needed(m.MatchPolicy, at.Child("matchPolicy"), admissionregistrationv1.Equivalent, admissionregistrationv1.Exact)
	for _, s := range []struct {
		name     string
		selector *metav1.LabelSelector
	}{{"namespaceSelector", m.NamespaceSelector}, {"objectSelector", m.ObjectSelector}} {
		if s.selector == nil {
			errs = append(errs, field.Required(at.Child(s.name), ""))
			continue
		}
		errs = append(errs, metav1validation.ValidateLabelSelector(s.selector, metav1validation.LabelSelectorValidationOptions{}, at.Child(s.name))...)
	}
	for i := range m.ResourceRules {
		errs = append(errs, validateNamedRule(&m.ResourceRules[i], at.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, validateNamedRule(&m.ExcludeResourceRules[i], at.Child("excludeResourceRules").Index(i))...)
	}
	return errs
}

func validateNamedRule(r *admissionregistrationv1.NamedRuleWithOperations, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, name := range r.ResourceNames {
		place := at.Child("resourceNames").Index(i)
		errs = append(errs, check.Invalid(place, name, content.IsPathSegmentName(name))...)
		if slices.Contains(r.ResourceNames[:i], name) {
			errs = append(errs, field.Duplicate(place, name))
		}
	}
	return append(errs, validateRule(&r.RuleWithOperations, at)...)
}

// validateConditions compiles match conditions, which see no variables here.
func (e expressions) validateConditions(conditions []admissionregistrationv1.MatchCondition, at *field.Path) field.ErrorList {
	plain := expression.NewCompiler(false)
	return validateConditions(conditions, at, func(text string, at *field.Path) field.ErrorList {
		return wrong(plain.Compile(text, e.sees(), e.conditions[text], expression.Bool), text, at)
	})
}

func (e expressions) validateVariables(variables []admissionregistrationv1.Variable, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, v := range variables {
		name, text := at.Index(i).Child("name"), at.Index(i).Child("expression")
		switch {
		case strings.TrimSpace(v.Name) == "":
			errs = append(errs, field.Required(name, "name is not specified"))
		case !isIdentifier(v.Name):
			errs = append(errs, field.Invalid(name, v.Name, "must be a valid CEL identifier"))
		}
		if strings.TrimSpace(v.Expression) == "" {
			errs = append(errs, field.Required(text, "expression is not specified"))
			continue
		}
		errs = append(errs, wrong(e.Variable(v.Name, v.Expression, e.sees(), e.validations[v.Expression]), v.Expression, text)...)
	}
	return errs
}

var (
	identifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)
	reserved   = []string{"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop",
		"package", "namespace", "return", "var", "void", "while"}
)

func isIdentifier(name string) bool {
	return identifier.MatchString(name) && !slices.Contains(reserved, name)
}

func (e expressions) validateValidation(v *admissionregistrationv1.Validation, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
	} else {
		errs = append(errs, wrong(e.Compile(v.Expression, e.sees(), e.validations[v.Expression], expression.Bool), v.Expression, at.Child("expression"))...)
	}
	switch place := at.Child("messageExpression"); {
	case v.MessageExpression == "":
	case strings.TrimSpace(v.MessageExpression) == "":
		errs = append(errs, field.Invalid(place, v.MessageExpression, "must be non-empty if specified"))
	default:
		sees := expression.Sees{Params: e.params}
		errs = append(errs, wrong(e.Compile(v.MessageExpression, sees, e.messages[v.MessageExpression], expression.String), v.MessageExpression, place)...)
	}
	switch message := strings.TrimSpace(v.Message); {
	case v.Message != "" && message == "":
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "must be non-empty if specified"))
	case strings.ContainsAny(message, "\n\r"):
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "must not contain line breaks"))
	}
	return append(errs, supported(v.Reason, at.Child("reason"), metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge)...)
}

func (e expressions) validateAnnotations(policy string, annotations []admissionregistrationv1.AuditAnnotation, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(annotations) > maxAnnotations {
		errs = append(errs, field.Invalid(at, podspec.Untagged(annotations), fmt.Sprintf("must not have more than %d auditAnnotations", maxAnnotations)))
	}
	seen := make(map[string]bool)
	for i, a := range annotations {
		errs = append(errs, e.validateAnnotation(policy, a, at.Index(i))...)
		if seen[a.Key] {
			errs = append(errs, field.Duplicate(at.Index(i).Child("key"), a.Key))
		}
		seen[a.Key] = true
	}
	return errs
}

func (e expressions) validateAnnotation(policy string, a admissionregistrationv1.AuditAnnotation, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if policy == "" {
		errs = append(errs, field.Invalid(at.Child("key"), a.Key, "requires metadata.name be non-empty"))
	} else {
		errs = append(errs, check.Qualified(policy+"/"+a.Key, at.Child("key"))...)
	}
	switch text, place := strings.TrimSpace(a.ValueExpression), at.Child("valueExpression"); {
	case text == "":
		return append(errs, field.Required(place, "valueExpression is not specified"))
	case len(text) > maxAnnotationExpression:
		return append(errs, field.Required(place, fmt.Sprintf("must not exceed %d bytes in length", maxAnnotationExpression)))
	default:
		x := e.Compile(text, e.sees(), e.annotations[a.ValueExpression], expression.String, expression.Null)
		return append(errs, wrong(x, a.ValueExpression, place)...)
	}
}
