package apiextensions

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"

	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apicel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// What rules may cost at most, as estimated from the sizes the schema allows.
const (
	mostRuleCost  = 10_000_000
	mostTotalCost = 100_000_000
	// named are how many rules an error about the total names, and of which
	// part of it each is.
	named, namedPart = 4, 100
)

var reasons = []string{string(internal.FieldValueDuplicate), string(internal.FieldValueForbidden), string(internal.FieldValueInvalid), string(internal.FieldValueRequired)}

// validateRules judges all of the rules of a schema but the expressions.
func validateRules(s *internal.JSONSchemaProps, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range s.XValidations {
		errs = append(errs, validateRule(s, &s.XValidations[i], at.Index(i))...)
	}
	return errs
}

func validateRule(s *internal.JSONSchemaProps, r *internal.ValidationRule, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	rule, message := strings.TrimSpace(r.Rule), strings.TrimSpace(r.Message)
	switch {
	case rule == "":
		errs = append(errs, field.Required(at.Child("rule"), "rule is not specified"))
	case r.Message != "" && message == "":
		errs = append(errs, field.Invalid(at.Child("message"), r.Message, "must be non-empty if specified"))
	case hasBreak(message):
		errs = append(errs, field.Invalid(at.Child("message"), r.Message, "must not contain line breaks"))
	case hasBreak(rule) && message == "":
		errs = append(errs, field.Required(at.Child("message"), "message must be specified if rule contains line breaks"))
	}
	if r.MessageExpression != "" && strings.TrimSpace(r.MessageExpression) == "" {
		errs = append(errs, field.Required(at.Child("messageExpression"), "messageExpression must be non-empty if specified"))
	}
	if r.Reason != nil && !slices.Contains(reasons, string(*r.Reason)) {
		errs = append(errs, field.NotSupported(at.Child("reason"), *r.Reason, reasons))
	}
	if r.FieldPath == "" {
		return errs
	}
	if strings.TrimSpace(r.FieldPath) == "" {
		errs = append(errs, field.Invalid(at.Child("fieldPath"), r.FieldPath, "must be non-empty if specified"))
	}
	if hasBreak(r.FieldPath) {
		errs = append(errs, field.Invalid(at.Child("fieldPath"), r.FieldPath, "must not contain line breaks"))
	}
	if structural, err := schema.NewStructural(s); err == nil {
		if _, _, err := cel.ValidFieldPath(r.FieldPath, structural); err != nil {
			errs = append(errs, field.Invalid(at.Child("fieldPath"), r.FieldPath, "must be a valid path"))
		}
	}
	return errs
}

func hasBreak(text string) bool { return strings.ContainsAny(text, "\n\r") }

// costs adds up what the rules of a kind cost.
type costs struct {
	sum  uint64
	most []cost // the most expensive first
}

type cost struct {
	at    *field.Path
	units uint64
}

func newCosts() *costs { return &costs{} }

// root is the scope of a kind's schema, nil if rules are not compiled.
func (c *costs) root(s *internal.JSONSchemaProps) *scope {
	if c == nil {
		return nil
	}
	one := uint64(1)
	return &scope{schema: s, ruled: len(s.XValidations) > 0, count: &one}
}

func (c *costs) add(at *field.Path, units uint64) {
	sum, carry := bits.Add64(c.sum, units, 0)
	if carry > 0 {
		sum = math.MaxUint64
	}
	c.sum = sum
	if units < mostTotalCost/namedPart {
		return
	}
	c.most = append(c.most, cost{at, units})
	slices.SortStableFunc(c.most, func(a, b cost) int { return cmp.Compare(b.units, a.units) })
	c.most = c.most[:min(len(c.most), named)]
}

// total is the error where all rules together cost too much.
func (c *costs) total(at *field.Path) field.ErrorList {
	if c == nil || c.sum <= mostTotalCost {
		return nil
	}
	var errs field.ErrorList
	for _, m := range c.most {
		errs = append(errs, field.Forbidden(m.at, "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"))
	}
	return append(errs, field.Forbidden(at, tooExpensive("x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema", c.sum, mostTotalCost)))
}

func tooExpensive(what string, units, most uint64) string {
	times := float64(units) / float64(most)
	factor := fmt.Sprintf("%.1fx", times)
	switch {
	case times > 100:
		factor = "more than 100x"
	case times < 1.5:
		factor = fmt.Sprintf("%fx", times)
	}
	return fmt.Sprintf("%s exceeds budget by factor of %s (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)",
		what, factor)
}

// scope is a schema as rules see it.
type scope struct {
	schema *internal.JSONSchemaProps
	parent *scope
	from   func(*types) *types // the types of it among those of the parent
	ruled  bool                // there are rules here or above
	count  *uint64             // how often it can be in an object; nil: no limit
	types  *types
	err    error
}

// types are a schema and its type in CEL.
type types struct {
	schema *schema.Structural
	decl   *apicel.DeclType
}

// child is the scope of a schema below s, nil where there are no rules.
func (c *scope) child(s *internal.JSONSchemaProps, below child) *scope {
	if c == nil {
		return nil
	}
	next := &scope{schema: below.schema, parent: c, ruled: c.ruled || len(below.schema.XValidations) > 0}
	switch below.how {
	case property:
		next.from = func(t *types) *types { return t.property(below.name) }
	case values:
		next.from = func(t *types) *types {
			if t.schema.AdditionalProperties == nil {
				return nil
			}
			return &types{t.schema.AdditionalProperties.Structural, t.decl.ElemType}
		}
	case items:
		next.from = func(t *types) *types {
			if t.schema.Items == nil {
				return nil
			}
			return &types{t.schema.Items, t.decl.ElemType}
		}
	default:
		return nil
	}
	if most := mostElements(s); most != nil && c.count != nil {
		n := times(*c.count, *most)
		next.count = &n
	}
	return next
}

func (t *types) property(name string) *types {
	p := t.schema.Properties[name]
	escaped, ok := apicel.Escape(name)
	if !ok {
		return nil
	}
	f, ok := t.decl.Fields[escaped]
	if !ok {
		return nil
	}
	return &types{&p, f.Type}
}

// mostElements is how many values there can be below one of s; nil: no limit.
func mostElements(s *internal.JSONSchemaProps) *uint64 {
	most := func(n *int64) *uint64 {
		if n == nil {
			return nil
		}
		m := uint64(max(*n, 0))
		return &m
	}
	switch {
	case s.Type == "object" && s.AdditionalProperties != nil:
		return most(s.MaxProperties)
	case s.Type == "array":
		return most(s.MaxItems)
	}
	one := int64(1)
	return most(&one)
}

// times is a product, or the largest number there is.
func times(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	if high > 0 {
		return math.MaxUint64
	}
	return low
}

// resolve finds the types, from those of the parent if it has them: making them
// anew is expensive.
func (c *scope) resolve() (*types, error) {
	if !c.ruled || c.types != nil || c.err != nil {
		return c.types, c.err
	}
	if c.parent != nil {
		above, err := c.parent.resolve()
		if err != nil {
			c.err = err
			return nil, err
		}
		if above != nil {
			if c.types = c.from(above); c.types != nil {
				return c.types, nil
			}
		}
	}
	structural, err := schema.NewStructural(c.schema)
	if err != nil {
		c.err = err
		return nil, err
	}
	decl := model.SchemaDeclType(structural, c.parent == nil || c.schema.XEmbeddedResource)
	if decl == nil {
		c.err = fmt.Errorf("unable to convert structural schema to CEL declarations")
		return nil, c.err
	}
	c.types = &types{structural, decl}
	return c.types, nil
}

// compile lists what is wrong with the expressions of a schema's rules.
func (w walk) compile(s *internal.JSONSchemaProps, at *field.Path, p place) field.ErrorList {
	t, err := p.scope.resolve()
	if err != nil {
		return field.ErrorList{field.InternalError(at, fmt.Errorf("internal error: failed to construct type information for x-kubernetes-validations rules: %w", err))}
	}
	results, err := cel.Compile(t.schema, t.decl, celconfig.PerCallLimit, environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()), w.expressions)
	if err != nil {
		return field.ErrorList{field.InternalError(at, err)}
	}
	var errs field.ErrorList
	for i := range results {
		errs = append(errs, w.compiled(s, i, &results[i], at.Index(i), p)...)
	}
	return errs
}

func (w walk) compiled(s *internal.JSONSchemaProps, i int, c *cel.CompilationResult, at *field.Path, p place) field.ErrorList {
	count := c.MaxCardinality
	if p.scope.count != nil {
		count = *p.scope.count
	}
	units := times(c.MaxCost, count)
	errs := w.charge("estimated rule cost", units, at.Child("rule"))
	rule := s.XValidations[i]
	switch {
	case c.Error == nil:
	case c.Error.Type == apicel.ErrorTypeRequired:
		errs = append(errs, field.Required(at.Child("rule"), c.Error.Detail))
	default:
		errs = append(errs, field.Invalid(at.Child("rule"), rule, c.Error.Detail))
	}
	switch {
	case c.MessageExpressionError != nil:
		errs = append(errs, field.Invalid(at.Child("messageExpression"), rule, c.MessageExpressionError.Detail))
	case c.MessageExpression != nil:
		errs = append(errs, w.charge("estimated messageExpression cost", c.MessageExpressionMaxCost, at.Child("messageExpression"))...)
	}
	switch {
	case c.UsesOldSelf && p.uncorrelated != nil:
		errs = append(errs, field.Invalid(at.Child("rule"), rule.Rule,
			fmt.Sprintf("oldSelf cannot be used on the uncorrelatable portion of the schema within %v", p.uncorrelated)))
	case !c.UsesOldSelf && rule.OptionalOldSelf != nil:
		errs = append(errs, field.Invalid(at.Child("optionalOldSelf"), *rule.OptionalOldSelf, "may not be set if oldSelf is not used in rule"))
	}
	return errs
}

// charge adds what an expression costs, and refuses it if that is too much.
func (w walk) charge(what string, units uint64, at *field.Path) field.ErrorList {
	w.costs.add(at, units)
	if w.anyCost || units <= mostRuleCost {
		return nil
	}
	return field.ErrorList{field.Forbidden(at, tooExpensive(what, units, mostRuleCost))}
}
