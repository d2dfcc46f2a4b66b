package devices

import (
	"encoding/json"
	"fmt"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/dynamic-resource-allocation/cel"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/core"
)

func validateClaimSpec(s *resourcev1.ResourceClaimSpec, at *field.Path) field.ErrorList {
	at = at.Child("devices")
	names := namesOf(&s.Devices)
	errs := eachOnce(s.Devices.Requests, resourcev1.DeviceRequestsMaxSize, at.Child("requests"),
		func(r *resourcev1.DeviceRequest) string { return r.Name }, validateRequest)
	errs = append(errs, each(s.Devices.Constraints, resourcev1.DeviceConstraintsMaxSize, at.Child("constraints"), func(c *resourcev1.DeviceConstraint, at *field.Path) field.ErrorList {
		return append(names.validateList(c.Requests, at.Child("requests")), validateConstraint(c, at)...)
	})...)
	return append(errs, each(s.Devices.Config, resourcev1.DeviceConfigMaxSize, at.Child("config"), func(c *resourcev1.DeviceClaimConfiguration, at *field.Path) field.ErrorList {
		return append(names.validateList(c.Requests, at.Child("requests")), validateConfiguration(&c.DeviceConfiguration, at, false)...)
	})...)
}

// requestNames are the requests of a claim, each with its alternatives.
type requestNames map[string]sets.Set[string]

func namesOf(c *resourcev1.DeviceClaim) requestNames {
	names := make(requestNames, len(c.Requests))
	for _, r := range c.Requests {
		names[r.Name] = sets.New[string]()
		for _, sub := range r.FirstAvailable {
			names[r.Name].Insert(sub.Name)
		}
	}
	return names
}

// validateList checks a list of references to requests.
func (n requestNames) validateList(list []string, at *field.Path) field.ErrorList {
	return eachOnce(list, resourcev1.DeviceRequestsMaxSize, at, func(name *string) string { return *name }, func(name *string, at *field.Path) field.ErrorList {
		return n.validate(*name, at)
	})
}

// validate checks a reference: request, or request/alternative.
func (n requestNames) validate(reference string, at *field.Path) field.ErrorList {
	unknown := field.Invalid(at, reference, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'")
	request, sub, isSub := strings.Cut(reference, "/")
	if strings.Contains(sub, "/") {
		return field.ErrorList{unknown}
	}
	errs := check.Label(request, at)
	if isSub {
		errs = append(errs, check.Label(sub, at)...)
	}
	if subs, ok := n[request]; !ok || isSub && !subs.Has(sub) {
		errs = append(errs, unknown)
	}
	return errs
}

func validateRequest(r *resourcev1.DeviceRequest, at *field.Path) field.ErrorList {
	errs := check.Label(r.Name, at.Child("name"))
	switch {
	case r.Exactly == nil && len(r.FirstAvailable) == 0:
		return append(errs, field.Required(at, "exactly one of `exactly` or `firstAvailable` is required"))
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		return append(errs, field.Invalid(at, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"))
	case r.Exactly != nil:
		e := r.Exactly
		return append(errs, validateWanted(wanted{e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations}, at.Child("exactly"))...)
	}
	return append(errs, eachOnce(r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, at.Child("firstAvailable"),
		func(sub *resourcev1.DeviceSubRequest) string { return sub.Name },
		func(sub *resourcev1.DeviceSubRequest, at *field.Path) field.ErrorList {
			errs := check.Label(sub.Name, at.Child("name"))
			return append(errs, validateWanted(wanted{sub.DeviceClassName, sub.Selectors, sub.AllocationMode, sub.Count, sub.Tolerations}, at)...)
		})...)
}

// wanted is what requests and their alternatives have in common.
type wanted struct {
	class       string
	selectors   []resourcev1.DeviceSelector
	mode        resourcev1.DeviceAllocationMode
	count       int64
	tolerations []resourcev1.DeviceToleration
}

func validateWanted(w wanted, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if w.class == "" {
		errs = append(errs, field.Required(at.Child("deviceClassName"), ""))
	} else {
		errs = append(errs, check.Subdomain(w.class, at.Child("deviceClassName"))...)
	}
	errs = append(errs, validateSelectors(w.selectors, at.Child("selectors"), false)...)
	count := at.Child("count")
	switch w.mode {
	case resourcev1.DeviceAllocationModeAll:
		if w.count != 0 {
			errs = append(errs, field.Invalid(count, w.count, fmt.Sprintf("must not be specified when allocationMode is '%s'", w.mode)))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		if w.count <= 0 {
			errs = append(errs, field.Invalid(count, w.count, "must be greater than zero"))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("allocationMode"), w.mode, []resourcev1.DeviceAllocationMode{resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount}))
	}
	for i := range w.tolerations {
		errs = append(errs, validateToleration(&w.tolerations[i], at.Child("tolerations").Index(i))...)
	}
	return errs
}

// effects are those of taints, in the order of messages.
var effects = []resourcev1.DeviceTaintEffect{resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone}

func validateToleration(t *resourcev1.DeviceToleration, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, check.Invalid(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
	default:
		errs = append(errs, check.OneOf(t.Operator, at.Child("operator"), resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists)...)
	}
	if t.Effect != "" {
		errs = append(errs, check.Supported(t.Effect, at.Child("effect"), effects...)...)
	}
	return errs
}

func validateSelectors(list []resourcev1.DeviceSelector, at *field.Path, stored bool) field.ErrorList {
	return each(list, resourcev1.DeviceSelectorsMaxSize, at, func(s *resourcev1.DeviceSelector, at *field.Path) field.ErrorList {
		if s.CEL == nil {
			return field.ErrorList{field.Required(at.Child("cel"), "")}
		}
		if err := validateExpression(s.CEL.Expression, at.Child("cel", "expression"), stored); err != nil {
			return field.ErrorList{err}
		}
		return nil
	})
}

// validateExpression compiles a CEL expression about a device. What is stored
// already may use what is not offered to new ones any more.
func validateExpression(expression string, at *field.Path, stored bool) *field.Error {
	if len(expression) > resourcev1.CELSelectorExpressionMaxLength {
		return field.TooLong(at, "", resourcev1.CELSelectorExpressionMaxLength)
	}
	kind := environment.NewExpressions
	if stored {
		kind = environment.StoredExpressions
	}
	result := cel.GetCompiler(cel.Features{EnableConsumableCapacity: true}).CompileCELExpression(expression, cel.Options{EnvType: &kind})
	switch {
	case result.Error != nil:
		return expressionError(result.Error, expression, at)
	case result.MaxCost > resourcev1.CELSelectorExpressionMaxCost:
		return field.Forbidden(at, "too complex, exceeds cost limit")
	}
	return nil
}

func expressionError(err *apiservercel.Error, expression string, at *field.Path) *field.Error {
	switch err.Type {
	case apiservercel.ErrorTypeRequired:
		return field.Required(at, err.Detail)
	case apiservercel.ErrorTypeInvalid:
		return field.Invalid(at, expression, err.Detail)
	}
	return field.InternalError(at, err)
}

func validateConstraint(c *resourcev1.DeviceConstraint, at *field.Path) field.ErrorList {
	switch {
	case c.MatchAttribute != nil:
		return validateFullName(*c.MatchAttribute, at.Child("matchAttribute"))
	case c.DistinctAttribute != nil:
		return validateFullName(*c.DistinctAttribute, at.Child("distinctAttribute"))
	}
	return field.ErrorList{field.Required(at, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`)}
}

func validateConfiguration(c *resourcev1.DeviceConfiguration, at *field.Path, stored bool) field.ErrorList {
	at = at.Child("opaque")
	if c.Opaque == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := core.ValidateDriverName(c.Opaque.Driver, at.Child("driver"))
	most := resourcev1.OpaqueParametersMaxLength
	if stored {
		most = len(c.Opaque.Parameters.Raw)
	}
	return append(errs, validateObject(c.Opaque.Parameters, most, at.Child("parameters"))...)
}

// validateObject requires a JSON object of at most so many bytes.
func validateObject(raw runtime.RawExtension, most int, at *field.Path) field.ErrorList {
	const omitted = "<value omitted>"
	switch {
	case len(raw.Raw) == 0:
		return field.ErrorList{field.Required(at, "")}
	case len(raw.Raw) > most:
		return field.ErrorList{field.TooLong(at, "", most)}
	}
	var value any
	if err := json.Unmarshal(raw.Raw, &value); err != nil {
		return field.ErrorList{field.Invalid(at, omitted, fmt.Sprintf("error parsing data as JSON: %v", err))}
	}
	if value == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	if _, ok := value.(map[string]any); !ok {
		return field.ErrorList{field.Invalid(at, omitted, "must be a valid JSON object")}
	}
	return nil
}
