package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func downwardFiles(_ context.Context, v *volume) (map[string]file, error) {
	return v.fromPod(v.DownwardAPI.Items, v.DownwardAPI.DefaultMode)
}

// fromPod are files with fields of the pod.
func (v *volume) fromPod(items []v1.DownwardAPIVolumeFile, mode *int32) (map[string]file, error) {
	files := map[string]file{}
	var errs []error
	for _, item := range items {
		f := file{mode: fileMode(mode)}
		if item.Mode != nil {
			f.mode = fileMode(item.Mode)
		}
		var text string
		var err error
		switch {
		case item.FieldRef != nil:
			text, err = fieldText(v.pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			text, err = resourceText(v.pod, item.ResourceFieldRef, v.m.allocatable())
		default:
			err = fmt.Errorf("file %s has neither fieldRef nor resourceFieldRef", item.Path)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f.data = []byte(text)
		files[item.Path] = f
	}
	return files, errors.Join(errs...)
}

// fieldText is the text of a field: one value, or all labels or annotations as key="value" lines.
func fieldText(pod *v1.Pod, path string) (string, error) {
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return lines(pod.Labels), nil
	case "metadata.annotations":
		return lines(pod.Annotations), nil
	}
	name, rest, found := strings.Cut(path, "['")
	key, closed := strings.CutSuffix(rest, "']")
	switch {
	case found && closed && name == "metadata.labels":
		return pod.Labels[key], nil
	case found && closed && name == "metadata.annotations":
		return pod.Annotations[key], nil
	case found && closed:
		return "", fmt.Errorf("fieldPath %q does not support subscript", path)
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

// lines are the entries sorted by key, the values quoted as Go quotes strings.
func lines(m map[string]string) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		all = append(all, key+"="+strconv.Quote(m[key]))
	}
	return strings.Join(all, "\n")
}

// resourceText is a request or limit in units of the divisor, rounded up. Without a limit of its own a
// container has what its pod or the node has.
func resourceText(pod *v1.Pod, ref *v1.ResourceFieldSelector, allocatable v1.ResourceList) (string, error) {
	i := slices.IndexFunc(containersOf(pod), func(c *v1.Container) bool { return c.Name == ref.ContainerName })
	if i < 0 {
		return "", fmt.Errorf("container %s not found", ref.ContainerName)
	}
	c := containersOf(pod)[i]
	list, name, _ := strings.Cut(ref.Resource, ".")
	var quantity resource.Quantity
	switch list {
	case "requests":
		quantity = c.Resources.Requests[v1.ResourceName(name)]
	case "limits":
		quantity = limitOf(pod, c, v1.ResourceName(name), allocatable)
	default:
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}

	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == string(v1.ResourceCPU) {
		return strconv.FormatInt(divideUp(quantity.MilliValue(), divisor.MilliValue()), 10), nil
	}
	return strconv.FormatInt(divideUp(quantity.Value(), divisor.Value()), 10), nil
}

func limitOf(pod *v1.Pod, c *v1.Container, name v1.ResourceName, allocatable v1.ResourceList) resource.Quantity {
	if q, found := c.Resources.Limits[name]; found && !q.IsZero() {
		return q
	}
	if pod.Spec.Resources != nil {
		if q, found := pod.Spec.Resources.Limits[name]; found && !q.IsZero() {
			return q
		}
	}
	return allocatable[name]
}

func divideUp(value, by int64) int64 {
	if by <= 0 {
		return value
	}
	return (value + by - 1) / by
}

func (m *Manager) allocatable() v1.ResourceList {
	if m.cfg.Allocatable == nil {
		return nil
	}
	return m.cfg.Allocatable()
}
