package podspec

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// file is a path in a volume and what puts it there.
type file struct{ path, source string }

func (f file) String() string {
	if f.source == "" {
		return fmt.Sprintf("%q", f.path)
	}
	return fmt.Sprintf("%q (%s)", f.path, f.source)
}

func keyFiles(items []v1.KeyToPath, source string) []file {
	files := make([]file, len(items))
	for i := range items {
		files[i] = file{items[i].Path, source}
	}
	return files
}

func downwardFiles(items []v1.DownwardAPIVolumeFile, source string) []file {
	files := make([]file, len(items))
	for i := range items {
		files[i] = file{items[i].Path, source}
	}
	return files
}

// overlappingFiles warns of files of one volume that hide each other: the same
// path twice, or one below the other.
func overlappingFiles(volume *v1.Volume) []string {
	s := &volume.VolumeSource
	switch {
	case s.ConfigMap != nil:
		return overlaps(volume.Name, fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name), keyFiles(s.ConfigMap.Items, ""))
	case s.Secret != nil:
		return overlaps(volume.Name, fmt.Sprintf("Secret %q", s.Secret.SecretName), keyFiles(s.Secret.Items, ""))
	case s.DownwardAPI != nil:
		return overlaps(volume.Name, "DownwardAPI", downwardFiles(s.DownwardAPI.Items, ""))
	case s.Projected == nil:
		return nil
	}
	var warnings []string
	var files []file
	for i := range s.Projected.Sources {
		source := &s.Projected.Sources[i]
		switch {
		case *source == (v1.VolumeProjection{}):
			warnings = append(warnings, fmt.Sprintf("volume %q (Projected) has no sources provided", volume.Name))
		case source.ConfigMap != nil && source.ConfigMap.Items != nil:
			files = append(files, keyFiles(source.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", source.ConfigMap.Name))...)
		case source.Secret != nil && source.Secret.Items != nil:
			files = append(files, keyFiles(source.Secret.Items, fmt.Sprintf("Secret %q", source.Secret.Name))...)
		case source.DownwardAPI != nil && source.DownwardAPI.Items != nil:
			files = append(files, downwardFiles(source.DownwardAPI.Items, "DownwardAPI")...)
		case source.ServiceAccountToken != nil:
			files = append(files, file{source.ServiceAccountToken.Path, "ServiceAccountToken"})
		}
	}
	return append(warnings, overlaps(volume.Name, "Projected", files)...)
}

func overlaps(volume, kind string, files []file) []string {
	var warnings []string
	for i := range files {
		files[i].path = strings.TrimRight(files[i].path, "/")
		for _, other := range files[:i] {
			if hides(files[i].path, other.path) {
				warnings = append(warnings, fmt.Sprintf("volume %q (%s): overlapping paths: %s with %s", volume, kind, files[i], other))
			}
		}
	}
	return warnings
}

func hides(a, b string) bool {
	return a != "" && b != "" && (strings.HasPrefix(a+"/", b+"/") || strings.HasPrefix(b+"/", a+"/"))
}
