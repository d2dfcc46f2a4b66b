package fairness

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
	"github.com/skiff-k8s/skiff/guard"
)

// Source is where the objects are: a store.Store.
type Source interface {
	Snapshot(ctx context.Context, r *resource.Resource, m store.Match, minRevision int64) ([]*store.Item, int64, error)
	Watch(ctx context.Context, r *resource.Resource, m store.Match, after int64) iter.Seq2[store.Step, error]
}

// Objects are what a Controller follows.
type Objects struct {
	Source  Source
	Cluster resource.Cluster
	// Apply merges an applied status, as server-side apply by the server does, into live.
	Apply func(ctx context.Context, row *resource.Resource, live resource.Object, status *unstructured.Unstructured) (resource.Object, error)
	Log   *slog.Logger
}

// Run follows the objects, says in the status of each schema whether its level is there, and lends seats, until ctx ends.
func (f *Controller) Run(ctx context.Context, o Objects) error {
	var periods guard.Group
	defer periods.Wait()
	periods.Go("seats", func() {
		for tick := time.NewTicker(period); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				f.lendSeats()
			}
		}
	})
	for ctx.Err() == nil {
		if err := f.follow(ctx, o); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// follow takes over what there is, and returns when that has changed.
func (f *Controller) follow(ctx context.Context, o Objects) error {
	rows := []*resource.Resource{o.Cluster.Resource(flowcontrolv1.GroupName, "flowschemas"), o.Cluster.Resource(flowcontrolv1.GroupName, "prioritylevelconfigurations")}
	var schemas []*flowcontrolv1.FlowSchema
	var levels []*flowcontrolv1.PriorityLevelConfiguration
	ctx, changed := context.WithCancel(ctx)
	defer changed()
	var watches guard.Group
	defer watches.Wait()
	for _, row := range rows {
		items, revision, err := o.Source.Snapshot(ctx, row, store.Match{Readable: true}, -1)
		if err != nil {
			changed()
			return fmt.Errorf("read %s: %w", row.Plural, err)
		}
		for _, item := range items {
			switch obj := item.Object().(type) {
			case *flowcontrolv1.FlowSchema:
				schemas = append(schemas, obj)
			case *flowcontrolv1.PriorityLevelConfiguration:
				levels = append(levels, obj)
			}
		}
		watches.Go(row.Plural, func() {
			defer changed()
			for step, err := range o.Source.Watch(ctx, row, store.Match{Readable: true}, revision) {
				if err != nil || step.Event != nil {
					return
				}
			}
		})
	}
	f.Configure(schemas, levels)
	for _, s := range schemas {
		if err := dangle(ctx, o, rows[0], s, levels); err != nil && ctx.Err() == nil {
			o.Log.WarnContext(ctx, "the status of a flow schema was not written", "flowSchema", s.Name, "error", err)
		}
	}
	<-ctx.Done()
	return nil
}

// errSaid says that there is nothing to write.
var errSaid = errors.New("the status says so already")

// dangle says in the status of a schema whether its level is there.
func dangle(ctx context.Context, o Objects, row *resource.Resource, s *flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) error {
	want := danglingCondition(s, levels)
	if says(condition(s), want) {
		return nil
	}
	_, err := o.Cluster.Update(ctx, row, "", s.Name, false, func(obj resource.Object) error {
		now := obj.(*flowcontrolv1.FlowSchema)
		if now.Generation != s.Generation || says(condition(now), want) {
			return errSaid // or is not about this one any more
		}
		want.LastTransitionTime = metav1.Now()
		applied, err := o.Apply(ctx, row, now, toApply(now.Name, want))
		if err != nil {
			return err
		}
		*now = *applied.(*flowcontrolv1.FlowSchema)
		return nil
	})
	if errors.Is(err, errSaid) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func says(have *flowcontrolv1.FlowSchemaCondition, want flowcontrolv1.FlowSchemaCondition) bool {
	return have != nil && have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message
}

// toApply is the status that has a condition.
func toApply(name string, c flowcontrolv1.FlowSchemaCondition) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": flowcontrolv1.SchemeGroupVersion.String(), "kind": "FlowSchema", "metadata": map[string]any{"name": name},
		"status": map[string]any{"conditions": []any{map[string]any{"type": string(c.Type), "status": string(c.Status), "reason": c.Reason, "message": c.Message,
			"lastTransitionTime": c.LastTransitionTime.UTC().Format(time.RFC3339)}}},
	}}
}

func condition(s *flowcontrolv1.FlowSchema) *flowcontrolv1.FlowSchemaCondition {
	i := slices.IndexFunc(s.Status.Conditions, func(c flowcontrolv1.FlowSchemaCondition) bool {
		return c.Type == flowcontrolv1.FlowSchemaConditionDangling
	})
	if i < 0 {
		return nil
	}
	return &s.Status.Conditions[i]
}

func danglingCondition(s *flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) flowcontrolv1.FlowSchemaCondition {
	name := s.Spec.PriorityLevelConfiguration.Name
	c := flowcontrolv1.FlowSchemaCondition{Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found",
		Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", name)}
	if !slices.ContainsFunc(levels, func(l *flowcontrolv1.PriorityLevelConfiguration) bool { return l.Name == name }) {
		c.Status, c.Reason = flowcontrolv1.ConditionTrue, "NotFound"
		c.Message = fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", name)
	}
	return c
}
