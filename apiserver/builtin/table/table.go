// Package table makes the columns of built-in kinds short to write.
package table

import (
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Described is an API type with the descriptions of its fields.
type Described interface{ SwaggerDoc() map[string]string }

// Doc is the description of a field of an API type, by its JSON name.
func Doc(of Described, field string) string { return of.SwaggerDoc()[field] }

// Text is a column of strings.
func Text[P any](name, description string, value func(P) string) resource.Column[P] {
	return resource.Column[P]{Name: name, Type: "string", Description: description,
		Value: func(obj P) any { return value(obj) }}
}

// Ago is a column of strings that may say how long ago something was.
func Ago[P any](name, description string, value func(P) any) resource.Column[P] {
	return resource.Column[P]{Name: name, Type: "string", Description: description, Value: value}
}

// Number is a column of integers.
func Number[P any](name, description string, value func(P) int64) resource.Column[P] {
	return resource.Column[P]{Name: name, Type: "integer", Description: description,
		Value: func(obj P) any { return value(obj) }}
}

// Bool is a column of true and false.
func Bool[P any](name, description string, value func(P) bool) resource.Column[P] {
	return resource.Column[P]{Name: name, Type: "boolean", Description: description,
		Value: func(obj P) any { return value(obj) }}
}

// Wide is the column only "kubectl get -o wide" shows.
func Wide[P any](c resource.Column[P]) resource.Column[P] {
	c.Priority = 1
	return c
}

// OrNone is s, or "<none>" if s is empty.
func OrNone(s string) string { return Or(s, "<none>") }

// Or is s, or otherwise if s is empty.
func Or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// Labels prints a label map as key=value,… in order of keys.
func Labels(labels map[string]string) string {
	pairs := make([]string, 0, len(labels))
	for k, v := range labels {
		pairs = append(pairs, k+"="+v)
	}
	sort.Strings(pairs)
	return OrNone(strings.Join(pairs, ","))
}

// Selector prints a label selector, "<none>" when it selects everything by
// being empty.
func Selector(s *metav1.LabelSelector) string { return metav1.FormatLabelSelector(s) }

// Count is a column of numbers that says it is one of strings, as many of the
// API do.
func Count[P any](name, description string, value func(P) int64) resource.Column[P] {
	c := Number(name, description, value)
	c.Type = "string"
	return c
}
