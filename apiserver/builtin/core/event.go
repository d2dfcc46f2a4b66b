package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// EventLifetime is how long an Event is kept, in seconds.
const EventLifetime = 60 * 60

func events() *resource.Resource {
	return resource.Define[corev1.EventList](resource.Definition[corev1.Event]{
		Version: "v1", Kind: "Event", Plural: "events", ShortNames: []string{"ev"},
		Meta:           resource.MetaLax,
		Validate:       func(e, _ *corev1.Event) field.ErrorList { return ValidateEvent(e, "reportingComponent") },
		Fields:         EventFields(),
		CreateOnUpdate: true,
		TTL:            func(*corev1.Event) uint64 { return EventLifetime },
		Columns:        eventColumns,
	})
}

// EventFields are the fields a selector of either version of Event can name.
func EventFields() map[string]func(*corev1.Event) string {
	return map[string]func(*corev1.Event) string{
		"involvedObject.kind":            func(e *corev1.Event) string { return e.InvolvedObject.Kind },
		"involvedObject.namespace":       func(e *corev1.Event) string { return e.InvolvedObject.Namespace },
		"involvedObject.name":            func(e *corev1.Event) string { return e.InvolvedObject.Name },
		"involvedObject.uid":             func(e *corev1.Event) string { return string(e.InvolvedObject.UID) },
		"involvedObject.apiVersion":      func(e *corev1.Event) string { return e.InvolvedObject.APIVersion },
		"involvedObject.resourceVersion": func(e *corev1.Event) string { return e.InvolvedObject.ResourceVersion },
		"involvedObject.fieldPath":       func(e *corev1.Event) string { return e.InvolvedObject.FieldPath },
		"reason":                         func(e *corev1.Event) string { return e.Reason },
		"reportingComponent":             func(e *corev1.Event) string { return e.ReportingController },
		// Events of the newer API have no source; their controller stands in.
		"source": func(e *corev1.Event) string { return table.Or(e.Source.Component, e.ReportingController) },
		"type":   func(e *corev1.Event) string { return e.Type },
	}
}

// Limits of what an Event with eventTime may say, in bytes.
const (
	maxEventWord    = 128
	maxEventMessage = 1024
)

// ValidateEvent checks what both versions of Event demand. controller is the
// name of the field reportingController in the version of the request.
func ValidateEvent(e *corev1.Event, controller string) field.ErrorList {
	var errs field.ErrorList
	if e.EventTime.IsZero() {
		errs = validateEventNamespace(e, metav1.NamespaceDefault)
	} else {
		errs = validateTimedEvent(e, controller)
	}
	for _, msg := range validation.IsDNS1123Subdomain(e.Namespace) {
		errs = append(errs, field.Invalid(field.NewPath("namespace"), e.Namespace, msg))
	}
	return errs
}

// validateEventNamespace demands that an event is where its object is. Objects
// without namespace have theirs in the default namespace.
func validateEventNamespace(e *corev1.Event, home string) field.ErrorList {
	namespace := e.InvolvedObject.Namespace
	if namespace == e.Namespace || namespace == "" && e.Namespace == home {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("involvedObject", "namespace"), namespace, "does not match event.namespace")}
}

// validateTimedEvent checks events in the style of events.k8s.io, which have
// eventTime.
func validateTimedEvent(e *corev1.Event, controller string) field.ErrorList {
	var errs field.ErrorList
	if e.InvolvedObject.Namespace == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
		errs = append(errs, field.Invalid(field.NewPath("involvedObject", "namespace"), "", "does not match event.namespace"))
	}
	path := field.NewPath(controller)
	if e.ReportingController == "" {
		errs = append(errs, field.Required(path, ""))
	}
	for _, msg := range validation.IsQualifiedName(e.ReportingController) {
		errs = append(errs, field.Invalid(path, e.ReportingController, msg))
	}
	for _, word := range []struct{ name, value string }{
		{"reportingInstance", e.ReportingInstance}, {"action", e.Action}, {"reason", e.Reason},
	} {
		if word.value == "" {
			errs = append(errs, field.Required(field.NewPath(word.name), ""))
		}
		if len(word.value) > maxEventWord {
			errs = append(errs, field.Invalid(field.NewPath(word.name), "", fmt.Sprintf("can have at most %d characters", maxEventWord)))
		}
	}
	if len(e.Message) > maxEventMessage {
		errs = append(errs, field.Invalid(field.NewPath("message"), "", fmt.Sprintf("can have at most %d characters", maxEventMessage)))
	}
	return errs
}

var eventColumns = []resource.Column[*corev1.Event]{
	table.Ago("Last Seen", "The time at which the most recent occurrence of this event was recorded.", LastSeen),
	table.Text("Type", table.Doc(corev1.Event{}, "type"), func(e *corev1.Event) string { return e.Type }),
	table.Text("Reason", table.Doc(corev1.Event{}, "reason"), func(e *corev1.Event) string { return e.Reason }),
	table.Text("Object", table.Doc(corev1.Event{}, "involvedObject"), eventObject),
	table.Wide(table.Text("Subobject", table.Doc(corev1.ObjectReference{}, "fieldPath"), func(e *corev1.Event) string { return e.InvolvedObject.FieldPath })),
	table.Wide(table.Text("Source", table.Doc(corev1.Event{}, "source"), eventSource)),
	table.Text("Message", table.Doc(corev1.Event{}, "message"), func(e *corev1.Event) string { return e.Message }),
	table.Wide(table.Ago("First Seen", table.Doc(corev1.Event{}, "firstTimestamp"), firstSeen)),
	table.Wide(table.Count("Count", table.Doc(corev1.Event{}, "count"), eventCount)),
	table.Wide(resource.NameColumn[*corev1.Event]()),
}

// EventColumns are the columns of both versions.
func EventColumns() []resource.Column[*corev1.Event] { return eventColumns }

// LastSeen is the age of the last occurrence.
func LastSeen(e *corev1.Event) any {
	last := resource.Age(e.LastTimestamp)
	if e.LastTimestamp.IsZero() {
		last = firstSeen(e)
	}
	if e.Series != nil {
		return sinceMicro(e.Series.LastObservedTime)
	}
	return last
}

func firstSeen(e *corev1.Event) any {
	if e.FirstTimestamp.IsZero() {
		return sinceMicro(e.EventTime)
	}
	return resource.Age(e.FirstTimestamp)
}

func sinceMicro(t metav1.MicroTime) any { return resource.Age(metav1.NewTime(t.Time)) }

func eventCount(e *corev1.Event) int64 {
	switch {
	case e.Series != nil:
		return int64(e.Series.Count)
	case e.Count == 0:
		return 1 // an event that has not been repeated
	default:
		return int64(e.Count)
	}
}

func eventObject(e *corev1.Event) string {
	o := e.InvolvedObject
	if o.Name == "" {
		return lower(o.Kind)
	}
	return lower(o.Kind) + "/" + o.Name
}

func eventSource(e *corev1.Event) string {
	component, host := e.Source.Component, e.Source.Host
	if component == "" {
		component, host = e.ReportingController, e.ReportingInstance
	}
	if host == "" {
		return component
	}
	return component + ", " + host
}
