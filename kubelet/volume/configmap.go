package volume

import (
	"context"
	"fmt"
	"maps"
	"os"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func configMapFiles(ctx context.Context, v *volume) (map[string]file, error) {
	s := v.ConfigMap
	return v.fromConfigMap(ctx, s.Name, s.Items, s.DefaultMode, s.Optional)
}

// fromConfigMap are the files of a ConfigMap; none when it is optional and does not exist.
func (v *volume) fromConfigMap(ctx context.Context, name string, items []v1.KeyToPath, mode *int32, optional *bool) (map[string]file, error) {
	object, err := v.m.configMaps.get(ctx, v.pod, name)
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	values := maps.Clone(object.BinaryData)
	if values == nil {
		values = map[string][]byte{}
	}
	for key, text := range object.Data {
		values[key] = []byte(text)
	}
	missing := func(key string) error { return fmt.Errorf("configmap references non-existent config key: %s", key) }
	return filesOf(values, items, fileMode(mode), isTrue(optional), missing)
}

// filesOf are all values under their keys or, with items, the chosen ones under their paths.
func filesOf(values map[string][]byte, items []v1.KeyToPath, mode os.FileMode, optional bool, missing func(key string) error) (map[string]file, error) {
	files := map[string]file{}
	if len(items) == 0 {
		for key, data := range values {
			files[key] = file{data: data, mode: mode}
		}
		return files, nil
	}
	for _, item := range items {
		data, found := values[item.Key]
		if !found {
			if optional {
				continue
			}
			return nil, missing(item.Key)
		}
		m := mode
		if item.Mode != nil {
			m = fileMode(item.Mode)
		}
		files[item.Path] = file{data: data, mode: m}
	}
	return files, nil
}

// fileMode is the mode of files; the API server defaults a missing one, 0644.
func fileMode(mode *int32) os.FileMode {
	if mode == nil {
		return 0o644
	}
	return os.FileMode(*mode)
}

func isTrue(b *bool) bool { return b != nil && *b }
