package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/guard"
)

// Component is a part of the control plane. Probe says what is wrong with it now.
type Component struct {
	Name  string
	Probe func(ctx context.Context) error
}

// componentStatuses are the parts of the control plane as they are when they are asked about. Nothing is stored.
func componentStatuses(parts []Component) *resource.Resource {
	return resource.Define[corev1.ComponentStatusList](resource.Definition[corev1.ComponentStatus]{
		Version: "v1", Kind: "ComponentStatus", Plural: "componentstatuses", ShortNames: []string{"cs"},
		ClusterScoped: true, Verbs: []string{"get", "list"},
		Deprecated: "v1 ComponentStatus is deprecated in v1.19+",
		Columns: []resource.Column[*corev1.ComponentStatus]{
			resource.NameColumn[*corev1.ComponentStatus](),
			{Name: "Status", Type: "string", Description: "Status of the component conditions",
				Value: func(s *corev1.ComponentStatus) any { return healthWord(healthy(s)) }},
			{Name: "Message", Type: "string", Description: "Message of the component conditions",
				Value: func(s *corev1.ComponentStatus) any { return healthy(s).Message }},
			{Name: "Error", Type: "string", Description: "Error of the component conditions",
				Value: func(s *corev1.ComponentStatus) any { return healthy(s).Error }},
		},
		Live: func(ctx context.Context, _, _ string) ([]*corev1.ComponentStatus, error) {
			return probeAll(ctx, parts), nil
		},
	})
}

// probeAll probes all parts at once, for one that does not answer takes its time.
func probeAll(ctx context.Context, parts []Component) []*corev1.ComponentStatus {
	list := make([]*corev1.ComponentStatus, len(parts))
	var probes guard.Group
	for i, p := range parts {
		list[i] = &corev1.ComponentStatus{}
		list[i].Name = p.Name
		probes.Go("component status", func() {
			c := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
			if err := p.Probe(ctx); err != nil {
				c.Status, c.Message = corev1.ConditionFalse, err.Error()
			}
			list[i].Conditions = []corev1.ComponentCondition{c}
		})
	}
	probes.Wait()
	return list
}

// healthy is the condition that is shown.
func healthy(s *corev1.ComponentStatus) corev1.ComponentCondition {
	for _, c := range s.Conditions {
		if c.Type == corev1.ComponentHealthy {
			return c
		}
	}
	return corev1.ComponentCondition{}
}

func healthWord(c corev1.ComponentCondition) string {
	switch c.Status {
	case "":
		return "Unknown"
	case corev1.ConditionTrue:
		return "Healthy"
	}
	return "Unhealthy"
}
