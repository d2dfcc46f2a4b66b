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

// Age is the time since t as tables print it, "<unknown>" if t is zero.
func Age(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}
