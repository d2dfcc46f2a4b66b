// Package events holds the newer version of Event, of events.k8s.io. Both
// versions are one object, stored as the core one.
package events

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/core"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Resources are the rows of the group; stored is the row of the core kind.
func Resources(stored *resource.Resource) []*resource.Resource {
	r := resource.Define[eventsv1.EventList](resource.Definition[eventsv1.Event]{
		Group: "events.k8s.io", Version: "v1", Kind: "Event", Plural: "events", ShortNames: []string{"ev"},
		Fields:         fields(),
		CreateOnUpdate: true,
		Columns:        columns(),
	})
	resource.Alias(r, stored, toCore, fromCore)
	r.TTL = stored.TTL
	r.Validate = func(_ context.Context, obj, old resource.Object) field.ErrorList {
		before, _ := old.(*corev1.Event)
		return validate(obj.(*corev1.Event), before)
	}
	return []*resource.Resource{r}
}

// fields are those of the core kind by their names in this version; source is
// not among them.
func fields() map[string]func(*eventsv1.Event) string {
	all := make(map[string]func(*eventsv1.Event) string)
	for name, value := range core.EventFields() {
		name = strings.Replace(name, "involvedObject.", "regarding.", 1)
		name = strings.Replace(name, "reportingComponent", "reportingController", 1)
		all[name] = func(e *eventsv1.Event) string { return value(toCore(e)) }
	}
	delete(all, "source")
	return all
}

func columns() []resource.Column[*eventsv1.Event] {
	var all []resource.Column[*eventsv1.Event]
	for _, c := range core.EventColumns() {
		all = append(all, resource.Column[*eventsv1.Event]{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Priority: c.Priority,
			Value: func(e *eventsv1.Event) any { return c.Value(toCore(e)) }})
	}
	return all
}

func toCore(e *eventsv1.Event) *corev1.Event {
	c := &corev1.Event{
		ObjectMeta:          *e.ObjectMeta.DeepCopy(),
		InvolvedObject:      e.Regarding,
		Reason:              e.Reason,
		Message:             e.Note,
		Source:              e.DeprecatedSource,
		FirstTimestamp:      e.DeprecatedFirstTimestamp,
		LastTimestamp:       e.DeprecatedLastTimestamp,
		Count:               e.DeprecatedCount,
		Type:                e.Type,
		EventTime:           e.EventTime,
		Action:              e.Action,
		Related:             e.Related.DeepCopy(),
		ReportingController: e.ReportingController,
		ReportingInstance:   e.ReportingInstance,
	}
	if e.Series != nil {
		c.Series = &corev1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	c.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Event"))
	return c
}

func fromCore(c *corev1.Event) *eventsv1.Event {
	e := &eventsv1.Event{
		ObjectMeta:               *c.ObjectMeta.DeepCopy(),
		Regarding:                c.InvolvedObject,
		Reason:                   c.Reason,
		Note:                     c.Message,
		DeprecatedSource:         c.Source,
		DeprecatedFirstTimestamp: c.FirstTimestamp,
		DeprecatedLastTimestamp:  c.LastTimestamp,
		DeprecatedCount:          c.Count,
		Type:                     c.Type,
		EventTime:                c.EventTime,
		Action:                   c.Action,
		Related:                  c.Related.DeepCopy(),
		ReportingController:      c.ReportingController,
		ReportingInstance:        c.ReportingInstance,
	}
	if c.Series != nil {
		e.Series = &eventsv1.EventSeries{Count: c.Series.Count, LastObservedTime: c.Series.LastObservedTime}
	}
	e.SetGroupVersionKind(eventsv1.SchemeGroupVersion.WithKind("Event"))
	return e
}

// validate is stricter than the core version: an event must be in the new
// style, and only its series may change.
func validate(e, old *corev1.Event) field.ErrorList {
	errs := core.ValidateEvent(e, "reportingController")
	if old != nil {
		return append(errs, validateUpdate(e, old)...)
	}
	errs = append(errs, validateSeries(e)...)
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", "has invalid value: "+e.Type))
	}
	unset := func(name string, isSet bool) {
		if isSet {
			errs = append(errs, field.Invalid(field.NewPath(name), "", "needs to be unset"))
		}
	}
	unset("firstTimestamp", !e.FirstTimestamp.IsZero())
	unset("lastTimestamp", !e.LastTimestamp.IsZero())
	unset("count", e.Count != 0)
	unset("source", e.Source.Component != "" || e.Source.Host != "")
	return errs
}

func validateSeries(e *corev1.Event) field.ErrorList {
	if e.Series == nil {
		return nil
	}
	var errs field.ErrorList
	if e.Series.Count < 2 {
		errs = append(errs, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	}
	if e.Series.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("series.lastObservedTime"), ""))
	}
	return errs
}

func validateUpdate(e, old *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	if !equality.Semantic.DeepEqual(e.Series, old.Series) {
		errs = append(errs, validateSeries(e)...)
	}
	for _, f := range []struct {
		name       string
		value, was any
	}{
		{"involvedObject", e.InvolvedObject, old.InvolvedObject},
		{"reason", e.Reason, old.Reason},
		{"message", e.Message, old.Message},
		{"source", e.Source, old.Source},
		{"firstTimestamp", e.FirstTimestamp, old.FirstTimestamp},
		{"lastTimestamp", e.LastTimestamp, old.LastTimestamp},
		{"count", e.Count, old.Count},
		{"type", e.Type, old.Type},
		{"action", e.Action, old.Action},
		{"related", e.Related, old.Related},
		{"reportingController", e.ReportingController, old.ReportingController},
		{"reportingInstance", e.ReportingInstance, old.ReportingInstance},
	} {
		errs = append(errs, podspec.Immutable(f.value, f.was, field.NewPath(f.name))...)
	}
	// JSON keeps microseconds of a time; protobuf keeps more.
	if e.EventTime.UnixMicro() != old.EventTime.UnixMicro() {
		errs = append(errs, field.Invalid(field.NewPath("eventTime"), e.EventTime, "field is immutable"))
	}
	return errs
}
