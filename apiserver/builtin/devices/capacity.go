package devices

import (
	"fmt"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateCapacity checks a capacity of a device. How claims may take part of
// it can be said of devices that are shared only.
func validateCapacity(c resourcev1.DeviceCapacity, shared bool, at *field.Path) field.ErrorList {
	at = at.Child("requestPolicy")
	p := c.RequestPolicy
	switch {
	case p == nil:
		return nil
	case !shared:
		return field.ErrorList{field.Forbidden(at, "allowMultipleAllocations must be true")}
	case len(p.ValidValues) > 0 && p.ValidRange != nil:
		return field.ErrorList{field.Forbidden(at, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)}
	case len(p.ValidValues) > 0 && p.Default == nil:
		return field.ErrorList{field.Required(at.Child("default"), "required when validValues is defined")}
	case len(p.ValidValues) > 0:
		return validateValues(p.ValidValues, *p.Default, c.Value, at.Child("validValues"))
	case p.ValidRange != nil && p.Default == nil:
		return field.ErrorList{field.Required(at.Child("default"), "required when validRange is defined")}
	case p.ValidRange != nil:
		return validateRange(p.ValidRange, *p.Default, c.Value, at.Child("validRange"))
	}
	return nil
}

// mostValues is how many values a policy can list.
const mostValues = 10

func validateValues(values []resource.Quantity, byDefault, capacity resource.Quantity, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	hasDefault := false
	for i := range values {
		if i > 0 && values[i-1].Cmp(values[i]) > 0 {
			errs = append(errs, field.Invalid(at.Index(i), values[i].String(), "values must be sorted in ascending order"))
		}
	}
	key := func(q *resource.Quantity) string { return fmt.Sprint(q.Value()) }
	errs = append(errs, eachOnce(values, mostValues, at, key, func(q *resource.Quantity, at *field.Path) field.ErrorList {
		hasDefault = hasDefault || q.Cmp(byDefault) == 0
		if q.Cmp(capacity) > 0 {
			return field.ErrorList{field.Invalid(at, q.String(), "option is larger than capacity value: "+capacity.String())}
		}
		return nil
	})...)
	if !hasDefault {
		errs = append(errs, field.Invalid(at, byDefault.String(), "default value is not valid according to the requestPolicy"))
	}
	return errs
}

func validateRange(r *resourcev1.CapacityRequestPolicyRange, byDefault, capacity resource.Quantity, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	least := r.Min
	if least == nil {
		return field.ErrorList{field.Required(at.Child("min"), "required when validRange is defined")}
	}
	wrong := func(name string, value resource.Quantity, format string, args ...any) {
		errs = append(errs, field.Invalid(at.Child(name), value.String(), fmt.Sprintf(format, args...)))
	}
	if least.Cmp(capacity) > 0 {
		wrong("min", *least, "min is larger than capacity value: %s", capacity.String())
	}
	if byDefault.Cmp(*least) < 0 {
		wrong("min", byDefault, "default is less than min: %s", least.String())
	}
	if most := r.Max; most != nil {
		if least.Cmp(*most) > 0 {
			wrong("max", *least, "min is larger than max: %s", most.String())
		}
		if most.Cmp(capacity) > 0 {
			wrong("max", *most, "max is larger than capacity value: %s", capacity.String())
		}
		if byDefault.Cmp(*most) > 0 {
			wrong("max", byDefault, "default is more than max: %s", most.String())
		}
	}
	if r.Step == nil {
		return errs
	}
	next := least.DeepCopy()
	if next.Add(*r.Step); next.Cmp(capacity) > 0 {
		wrong("step", *r.Step, "one step %s is larger than capacity value: %s", next.String(), capacity.String())
	}
	for _, q := range []*resource.Quantity{&byDefault, r.Max} {
		if q != nil && !multiple(*q, *least, *r.Step) {
			wrong("step", *q, "value is not a multiple of a given step (%s) from (%s)", r.Step.String(), least.String())
		}
	}
	return errs
}

// multiple reports whether q is a number of steps above least. There is no
// number of steps of nothing.
func multiple(q, least, step resource.Quantity) bool {
	return step.Value() != 0 && (q.Value()-least.Value())%step.Value() == 0
}
