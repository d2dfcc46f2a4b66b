package custom

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/warning"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// judge makes row judge objects. Rows of custom resources warn while they judge: of
// a rule that is let off clients are told though the write fails for something else.
func (v *served) judge(row *resource.Resource) {
	row.Validate = v.erase(v.validate)
	if status := row.Sub("status"); status != nil {
		status.Validate = v.erase(v.validateStatus)
	}
}

func (v *served) erase(judge func(ctx context.Context, obj, old *object) field.ErrorList) func(context.Context, resource.Object, resource.Object) field.ErrorList {
	return func(ctx context.Context, obj, old resource.Object) field.ErrorList {
		before, _ := old.(*object) // nil on create
		return judge(warning.WithWarningRecorder(ctx, recorder{ctx}), obj.(*object), before)
	}
}

// recorder gives the client the warnings of the library that evaluates rules.
type recorder struct{ ctx context.Context }

func (r recorder) AddWarning(_, text string) { request.Warn(r.ctx, text) }

// validate lists what is wrong with an object. What was as wrong before is let
// off.
func (v *served) validate(ctx context.Context, obj, old *object) field.ErrorList {
	c, s, obj, old, err := v.judged(obj, old)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	var errs field.ErrorList
	var correlated *common.CorrelatedObject
	if old == nil {
		errs = validation.ValidateCustomResource(nil, obj.Object, c.whole)
	} else {
		correlated = common.NewCorrelatedObject(obj.Object, old.Object, &model.Structural{Structural: s})
		errs = validation.ValidateCustomResourceUpdate(nil, obj.Object, old.Object, c.whole, validation.WithRatcheting(correlated))
	}
	errs = append(errs, v.validateReplicas(obj)...)
	errs = append(errs, v.validateScaleStatus(obj)...)
	errs = append(errs, objectmeta.Validate(nil, obj.Object, s, false)...)
	return append(errs, c.rest(ctx, errs, s, obj, old, correlated)...)
}

// validateStatus judges the status alone, by its own part of the schema, but
// for rules, which may be about both.
func (v *served) validateStatus(ctx context.Context, obj, old *object) field.ErrorList {
	c, s, obj, old, err := v.judged(obj, old)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	correlated := common.NewCorrelatedObject(obj.Object, old.Object, &model.Structural{Structural: s})
	var errs field.ErrorList
	if status, there := obj.Object["status"]; there {
		var options []validation.ValidationOption
		if s != nil {
			options = append(options, validation.WithRatcheting(correlated.Key("status")))
		}
		errs = validation.ValidateCustomResourceUpdate(field.NewPath("status"), status, old.Object["status"], c.status, options...)
	}
	errs = append(errs, v.validateScaleStatus(obj)...)
	return append(errs, c.rest(ctx, errs, s, obj, old, correlated)...)
}

// judged are the checks and the schema of the version, and the objects as it shows
// them.
func (v *served) judged(obj, old *object) (c *checks, s *schema.Structural, shown, before *object, err error) {
	if c, s, err = v.checked(); err != nil {
		return nil, nil, nil, nil, err
	}
	if shown, err = v.seen(obj); err != nil {
		return nil, nil, nil, nil, err
	}
	before, err = v.seen(old)
	return c, s, shown, before, err
}

func (v *served) checked() (*checks, *schema.Structural, error) {
	c, err := v.checks()
	if err != nil {
		return nil, nil, err
	}
	s, err := v.structure()
	return c, s, err
}

// rest judges what needs the object to be of the right form: lists whose items
// are unlike each other, and rules.
func (c *checks) rest(ctx context.Context, found field.ErrorList, s *schema.Structural, obj, old *object, correlated *common.CorrelatedObject) field.ErrorList {
	if correlated != nil {
		defer func() { validation.Metrics.ObserveRatchetingTime(*correlated.Duration) }()
	}
	var errs field.ErrorList
	if old == nil || len(listtype.ValidateListSetsAndMaps(nil, s, old.Object)) == 0 {
		errs = listtype.ValidateListSetsAndMaps(nil, s, obj.Object)
	}
	if c.rules == nil {
		return errs
	}
	if malformed(found) || malformed(errs) {
		return append(errs, field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
	}
	var before any
	var options []cel.Option
	if old != nil {
		before, options = old.Object, []cel.Option{cel.WithRatcheting(correlated)}
	}
	broken, _ := c.rules.Validate(ctx, nil, s, obj.Object, before, celconfig.RuntimeCELCostBudget, options...)
	return append(errs, broken...)
}

// malformed reports errors with which rules cannot be evaluated: they rely on
// types and sizes.
func malformed(errs field.ErrorList) bool {
	return slices.ContainsFunc(errs, func(e *field.Error) bool {
		switch e.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return true
		}
		return false
	})
}

func (v *served) validateReplicas(u *object) field.ErrorList {
	if v.scale == nil {
		return nil
	}
	return validateCount(u, v.scale.SpecReplicasPath)
}

func (v *served) validateScaleStatus(u *object) field.ErrorList {
	if v.scale == nil {
		return nil
	}
	errs := validateCount(u, v.scale.StatusReplicasPath)
	if path := v.scale.LabelSelectorPath; path != nil {
		selector, _, err := unstructured.NestedString(u.Object, names(*path)...)
		if err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*path), selector, err.Error()))
		}
	}
	return errs
}

// validateCount wants the number of replicas at a path to be one.
func validateCount(u *object, path string) field.ErrorList {
	at := field.NewPath(path)
	n, _, err := unstructured.NestedInt64(u.Object, names(path)...)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, n, err.Error())}
	case n < 0:
		return field.ErrorList{field.Invalid(at, n, "should be a non-negative integer")}
	case n > math.MaxInt32:
		return field.ErrorList{field.Invalid(at, n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32))}
	}
	return nil
}

// names are those of the fields on a path.
func names(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

// warn tells of finalizers that are new and have a doubtful name.
func warn(obj, old *object) []string {
	var warnings []string
	finalizers := slices.Clone(obj.GetFinalizers())
	slices.Sort(finalizers)
	for _, f := range slices.Compact(finalizers) {
		if old == nil || !slices.Contains(old.GetFinalizers(), f) {
			warnings = append(warnings, finalizerWarnings(f)...)
		}
	}
	return warnings
}

func finalizerWarnings(name string) []string {
	var warnings []string
	about := fmt.Sprintf("metadata.finalizers: %q: ", name)
	for _, problem := range utilvalidation.IsQualifiedName(name) {
		warnings = append(warnings, about+problem)
	}
	switch {
	case strings.Contains(name, "/"), name == metav1.FinalizerOrphanDependents, name == metav1.FinalizerDeleteDependents, name == "kubernetes":
		return warnings
	case strings.Contains(name, "."):
		return append(warnings, about+"prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers")
	}
	return append(warnings, about+"prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers")
}
