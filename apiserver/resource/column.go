package resource

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// NameColumn is the first column of every built-in table.
func NameColumn[P Object]() Column[P] {
	return Column[P]{Name: "Name", Type: "string", Format: "name",
		Description: metav1.ObjectMeta{}.SwaggerDoc()["name"],
		Value:       func(obj P) any { return obj.GetName() }}
}

// AgeColumn is the column with the time since creation.
func AgeColumn[P Object]() Column[P] {
	return Column[P]{Name: "Age", Type: "string",
		Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
		Value:       func(obj P) any { return Age(obj.GetCreationTimestamp()) }}
}

// Since is a cell that says how long ago something was. Nothing else in the cells of a table depends on when they are
// asked for.
type Since struct {
	Time          time.Time
	Before, After string // what stands around it
}

func (s Since) String() string { return s.Before + HowLong(s.Time) + s.After }

// MarshalText makes the cell a string in JSON.
func (s Since) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// HowLong is the time since t as tables print it.
func HowLong(t time.Time) string { return duration.HumanDuration(time.Since(t)) }

// Age is the cell with the time since t, "<unknown>" if t is zero.
func Age(t metav1.Time) any {
	if t.IsZero() {
		return "<unknown>"
	}
	return Since{Time: t.Time}
}
