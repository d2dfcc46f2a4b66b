// Package check holds the checks of single values that many kinds share, with
// the texts Kubernetes gives their errors.
package check

import (
	"slices"

	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// OneOf requires value to be set and to be one of values, which are in the
// order the message lists them.
func OneOf[T ~string](value T, path *field.Path, values ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return Supported(value, path, values...)
}

// Supported requires value to be one of values.
func Supported[T ~string](value T, path *field.Path, values ...T) field.ErrorList {
	if slices.Contains(values, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, values)}
}

// Invalid makes an error of each message about value.
func Invalid(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range messages {
		errs = append(errs, field.Invalid(path, value, msg))
	}
	return errs
}

// Label requires a DNS label.
func Label(name string, path *field.Path) field.ErrorList {
	return Invalid(path, name, validation.IsDNS1123Label(name))
}

// Subdomain requires a DNS subdomain.
func Subdomain(name string, path *field.Path) field.ErrorList {
	return Invalid(path, name, validation.IsDNS1123Subdomain(name))
}

// Qualified requires a name with an optional domain before a slash.
func Qualified(name string, path *field.Path) field.ErrorList {
	return Invalid(path, name, validation.IsQualifiedName(name))
}

// Port requires a port number.
func Port(port int32, path *field.Path) field.ErrorList {
	return Invalid(path, port, validation.IsValidPortNum(int(port)))
}

// PortOrName requires the number or the name of a port.
func PortOrName(port intstr.IntOrString, path *field.Path) field.ErrorList {
	if port.Type == intstr.Int {
		return Invalid(path, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
	}
	return Invalid(path, port.StrVal, validation.IsValidPortName(port.StrVal))
}

// Immutable requires value to be what it was.
func Immutable[T comparable](value, old T, path *field.Path) field.ErrorList {
	if value == old {
		return nil
	}
	return field.ErrorList{field.Invalid(path, value, "field is immutable")}
}
