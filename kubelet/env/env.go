// Package env makes a container's environment: its declared variables with all their sources, and the
// variables that name the services of its namespace. Expand is the $(VAR) syntax, which also commands,
// arguments and subPathExpr use.
package env

import (
	"context"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Objects reads what a pod's environment refers to, in the pod's namespace. A missing object is a NotFound API error.
type Objects interface {
	ConfigMap(ctx context.Context, pod *v1.Pod, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, pod *v1.Pod, name string) (*v1.Secret, error)
}

// Source is all that a container's environment comes from.
type Source struct {
	Pod       *v1.Pod
	Container *v1.Container

	PodIPs      []string
	HostIPs     []string
	Allocatable v1.ResourceList // of the node; the limits of a container that declares none
	Services    []*v1.Service   // of all namespaces; Make picks
	Objects     Objects
	// VolumePath is where a volume of the pod is on the node, "" if it is not.
	VolumePath func(volume string) string
}

// Var is one environment variable.
type Var struct{ Name, Value string }

// Make returns the variables, sorted by name. The error's text is what the container's waiting message
// shows with CreateContainerConfigError.
func Make(ctx context.Context, s Source) ([]Var, error) {
	r := resolver{Source: s, configMaps: map[string]*v1.ConfigMap{}, secrets: map[string]*v1.Secret{}}
	declared := map[string]string{}
	services := serviceVars(s.Services, s.Pod)

	for _, from := range s.Container.EnvFrom {
		if err := r.all(ctx, from, declared); err != nil {
			return nil, err
		}
	}
	lookup := Lookup(declared, services)
	for _, e := range s.Container.Env {
		value, set, err := r.value(ctx, e, lookup)
		if err != nil {
			return nil, err
		}
		if set {
			declared[e.Name] = value
		}
	}

	for name, value := range services {
		if _, found := declared[name]; !found {
			declared[name] = value
		}
	}
	vars := make([]Var, 0, len(declared))
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		vars = append(vars, Var{name, declared[name]})
	}
	return vars, nil
}

// Map is the variables by name.
func Map(vars []Var) map[string]string {
	m := make(map[string]string, len(vars))
	for _, v := range vars {
		m[v.Name] = v.Value
	}
	return m
}

// resolver reads each referenced object once per container.
type resolver struct {
	Source
	configMaps map[string]*v1.ConfigMap
	secrets    map[string]*v1.Secret
}

// all adds every key of an envFrom source.
func (r *resolver) all(ctx context.Context, from v1.EnvFromSource, into map[string]string) error {
	switch {
	case from.ConfigMapRef != nil:
		cm, err := r.configMap(ctx, from.ConfigMapRef.Name)
		if absent(err, from.ConfigMapRef.Optional) {
			return nil
		}
		if err != nil {
			return err
		}
		for k, v := range cm.Data {
			into[from.Prefix+k] = v
		}
	case from.SecretRef != nil:
		secret, err := r.secret(ctx, from.SecretRef.Name)
		if absent(err, from.SecretRef.Optional) {
			return nil
		}
		if err != nil {
			return err
		}
		for k, v := range secret.Data {
			into[from.Prefix+k] = string(v)
		}
	}
	return nil
}

// value is a declared variable's value; set is false when an optional source is absent.
func (r *resolver) value(ctx context.Context, e v1.EnvVar, lookup func(string) (string, bool)) (value string, set bool, err error) {
	from := e.ValueFrom
	switch {
	case e.Value != "" || from == nil:
		return Expand(e.Value, lookup), true, nil
	case from.FieldRef != nil:
		value, err = Field(r.Pod, from.FieldRef.FieldPath, r.PodIPs, r.HostIPs)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		value, err = Resource(r.Pod, r.Container, from.ResourceFieldRef, r.Allocatable)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		return r.configMapKey(ctx, from.ConfigMapKeyRef)
	case from.SecretKeyRef != nil:
		return r.secretKey(ctx, from.SecretKeyRef)
	case from.FileKeyRef != nil:
		return r.fileKey(ctx, from.FileKeyRef)
	default:
		return "", false, fmt.Errorf("environment variable %s has a source that this node does not support", e.Name)
	}
}

func (r *resolver) configMapKey(ctx context.Context, ref *v1.ConfigMapKeySelector) (string, bool, error) {
	cm, err := r.configMap(ctx, ref.Name)
	if absent(err, ref.Optional) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	value, found := cm.Data[ref.Key]
	if !found && !isTrue(ref.Optional) {
		return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, r.Pod.Namespace, ref.Name)
	}
	return value, found, nil
}

func (r *resolver) secretKey(ctx context.Context, ref *v1.SecretKeySelector) (string, bool, error) {
	secret, err := r.secret(ctx, ref.Name)
	if absent(err, ref.Optional) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	value, found := secret.Data[ref.Key]
	if !found && !isTrue(ref.Optional) {
		return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, r.Pod.Namespace, ref.Name)
	}
	return string(value), found, nil
}

func (r *resolver) configMap(ctx context.Context, name string) (*v1.ConfigMap, error) {
	if cm, found := r.configMaps[name]; found {
		return cm, nil
	}
	cm, err := r.Objects.ConfigMap(ctx, r.Pod, name)
	if err == nil {
		r.configMaps[name] = cm
	}
	return cm, err
}

func (r *resolver) secret(ctx context.Context, name string) (*v1.Secret, error) {
	if s, found := r.secrets[name]; found {
		return s, nil
	}
	s, err := r.Objects.Secret(ctx, r.Pod, name)
	if err == nil {
		r.secrets[name] = s
	}
	return s, err
}

func absent(err error, optional *bool) bool {
	return isTrue(optional) && apierrors.IsNotFound(err)
}

func isTrue(b *bool) bool { return b != nil && *b }
