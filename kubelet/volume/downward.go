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

	"github.com/skiff-k8s/skiff/kubelet/env"
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
			text, err = env.Resource(v.pod, nil, item.ResourceFieldRef, v.m.allocatable())
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
	case "metadata.labels":
		return lines(pod.Labels), nil
	case "metadata.annotations":
		return lines(pod.Annotations), nil
	}
	return env.Field(pod, path, nil, nil)
}

// lines are the entries sorted by key, the values quoted as Go quotes strings.
func lines(m map[string]string) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		all = append(all, key+"="+strconv.Quote(m[key]))
	}
	return strings.Join(all, "\n")
}

func (m *Manager) allocatable() v1.ResourceList {
	if m.cfg.Allocatable == nil {
		return nil
	}
	return m.cfg.Allocatable()
}
