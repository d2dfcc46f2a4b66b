// Package check holds the checks of single values that many kinds share, with
// the texts Kubernetes gives their errors.
package check

import (
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
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

// CountOrPercent requires a count of zero or more, or a percentage.
func CountOrPercent(n intstr.IntOrString, path *field.Path) field.ErrorList {
	if n.Type == intstr.String {
		return Invalid(path, n, validation.IsValidPercent(n.StrVal))
	}
	return apivalidation.ValidateNonnegativeField(int64(n.IntVal), path)
}

// AtMostAll refuses percentages over 100.
func AtMostAll(n intstr.IntOrString, path *field.Path) field.ErrorList {
	digits, isPercent := strings.CutSuffix(n.StrVal, "%")
	percent, err := strconv.Atoi(digits)
	if n.Type == intstr.String && isPercent && err == nil && percent > 100 {
		return field.ErrorList{field.Invalid(path, n, "must not be greater than 100%")}
	}
	return nil
}

// Unchanged requires value to be what it was, whatever its type.
func Unchanged(value, old any, path *field.Path) field.ErrorList {
	if equality.Semantic.DeepEqual(value, old) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, podspec.Untagged(value), "field is immutable")}
}
