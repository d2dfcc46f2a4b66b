// Package admission changes and checks objects before they are stored. The
// plugins and their order are the table in plugins.go.
package admission

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/heavy"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Attributes is one write, or one connection, on its way through the chain.
type Attributes struct {
	Verb        string             // create, update, delete, connect
	Resource    *resource.Resource // as stored
	Requested   *resource.Resource // as the client named it; nil: as stored
	Subresource string
	Namespace   string
	Name        string // may be empty on create with generateName
	Collection  bool   // it is one of many that a request deletes without naming them
	User        user.Info
	DryRun      bool
	// New is what will be stored; plugins of the mutating phase may change it.
	// For subresources with a body of their own it is that body. nil on delete.
	New runtime.Object
	// Old is shared and must not be changed; nil on create and connect.
	Old runtime.Object
	// Options are the CreateOptions, UpdateOptions, … of the request.
	Options runtime.Object
	// Warn adds a text to the Warning headers of the answer.
	Warn func(text string)
	// Audit adds an annotation to the audit event of the request.
	Audit func(key, value string)
	// Heavy runs what may be much work.
	Heavy heavy.Runner
	// Cluster reads what the decision needs.
	Cluster resource.Cluster

	// Again, set by a plugin, runs the mutating phase once more, with Round 1:
	// others may have to do with what it changed.
	Again bool
	Round int

	memory map[string]any
}

// Recall returns what a plugin of a name remembered in the round before, or nil.
func (a *Attributes) Recall(plugin string) any { return a.memory[plugin] }

// Remember keeps what for the plugin of a name until the next round.
func (a *Attributes) Remember(plugin string, what any) {
	if a.memory == nil {
		a.memory = make(map[string]any, 1)
	}
	a.memory[plugin] = what
}

// Served is the resource as the client named it.
func (a *Attributes) Served() *resource.Resource {
	if a.Requested != nil {
		return a.Requested
	}
	return a.Resource
}

// Object is New as an object with metadata, or nil if it has none.
func (a *Attributes) Object() resource.Object {
	obj, _ := a.New.(resource.Object)
	return obj
}

// Plugin is one step. Either function may be nil. Errors are API status
// errors; others become 403 Forbidden.
type Plugin struct {
	Name string
	// Mutate runs before system metadata is filled and the object validated.
	Mutate func(ctx context.Context, a *Attributes) error
	// Validate runs after validation and must not change the object.
	Validate func(ctx context.Context, a *Attributes) error
}

// Chain runs plugins in order and stops at the first rejection.
type Chain []Plugin

// Mutate runs the mutating phase, twice if a plugin asks for it.
func (c Chain) Mutate(ctx context.Context, a *Attributes) error {
	if err := c.mutate(ctx, a); err != nil || !a.Again {
		return err
	}
	a.Round = 1
	return c.mutate(ctx, a)
}

func (c Chain) mutate(ctx context.Context, a *Attributes) error {
	for _, p := range c {
		if p.Mutate == nil {
			continue
		}
		if err := p.Mutate(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// Validate runs the validating phase.
func (c Chain) Validate(ctx context.Context, a *Attributes) error {
	for _, p := range c {
		if p.Validate == nil {
			continue
		}
		if err := p.Validate(ctx, a); err != nil {
			return err
		}
	}
	return nil
}
