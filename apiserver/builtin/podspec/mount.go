package podspec

import (
	"path"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (v *validator) checkMounts(c *v1.Container, at *field.Path) {
	paths := make(map[string]bool)
	for i := range c.VolumeMounts {
		m, item := &c.VolumeMounts[i], at.Index(i)
		v.need(item.Child("name"), m.Name)
		if v.volumes[m.Name] == nil {
			v.add(field.NotFound(item.Child("name"), m.Name))
		}
		v.need(item.Child("mountPath"), m.MountPath)
		if paths[m.MountPath] {
			v.invalid(item.Child("mountPath"), m.MountPath, "must be unique")
		}
		paths[m.MountPath] = true
		if slices.ContainsFunc(c.VolumeDevices, func(d v1.VolumeDevice) bool { return d.Name == m.Name }) {
			v.invalid(item.Child("name"), m.Name, "must not already exist in volumeDevices")
		}
		if slices.ContainsFunc(c.VolumeDevices, func(d v1.VolumeDevice) bool { return d.DevicePath == m.MountPath }) {
			v.invalid(item.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices")
		}
		v.checkSubPath(m, at, item)
		v.checkPropagation(m.MountPropagation, c, at.Child("mountPropagation"))
		v.checkRecursiveReadOnly(m, at.Child("recursiveReadOnly"))
	}
}

func (v *validator) checkSubPath(m *v1.VolumeMount, at, item *field.Path) {
	if m.SubPath != "" {
		v.descending(m.SubPath, at.Child("subPath"))
	}
	if m.SubPathExpr == "" {
		return
	}
	if m.SubPath != "" {
		v.invalid(item.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
	}
	v.descending(m.SubPathExpr, at.Child("subPathExpr"))
}

func (v *validator) checkPropagation(p *v1.MountPropagationMode, c *v1.Container, at *field.Path) {
	if p == nil {
		return
	}
	oneOf(v, at, *p, v1.MountPropagationBidirectional, v1.MountPropagationHostToContainer, v1.MountPropagationNone)
	privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
	if *p == v1.MountPropagationBidirectional && !privileged {
		v.forbidden(at, "Bidirectional mount propagation is available only to privileged containers")
	}
}

func (v *validator) checkRecursiveReadOnly(m *v1.VolumeMount, at *field.Path) {
	if m.RecursiveReadOnly == nil {
		return
	}
	switch *m.RecursiveReadOnly {
	case v1.RecursiveReadOnlyEnabled, v1.RecursiveReadOnlyIfPossible:
		if !m.ReadOnly {
			v.forbidden(at, "may only be specified when readOnly is true")
		}
		if m.MountPropagation != nil && *m.MountPropagation != v1.MountPropagationNone {
			v.forbidden(at, "may only be specified when mountPropagation is None or not specified")
		}
	default:
		oneOf(v, at, *m.RecursiveReadOnly, v1.RecursiveReadOnlyDisabled, v1.RecursiveReadOnlyEnabled, v1.RecursiveReadOnlyIfPossible)
	}
}

func (v *validator) checkDevices(c *v1.Container, at *field.Path) {
	paths, names := make(map[string]bool), make(map[string]bool)
	for i := range c.VolumeDevices {
		d, item := &c.VolumeDevices[i], at.Index(i)
		source := v.volumes[d.Name]
		v.need(item.Child("name"), d.Name)
		if names[d.Name] {
			v.invalid(item.Child("name"), d.Name, "must be unique")
		}
		if source == nil {
			v.add(field.NotFound(item.Child("name"), d.Name))
		} else if source.PersistentVolumeClaim == nil && source.Ephemeral == nil {
			v.invalid(item.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
		}
		v.need(item.Child("devicePath"), d.DevicePath)
		if paths[d.DevicePath] {
			v.invalid(item.Child("devicePath"), d.DevicePath, "must be unique")
		}
		if hasBacksteps(d.DevicePath) {
			v.invalid(item.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')")
		} else {
			paths[d.DevicePath] = true
		}
		if slices.ContainsFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == d.Name }) {
			v.invalid(item.Child("name"), d.Name, "must not already exist in volumeMounts")
		}
		if slices.ContainsFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return m.MountPath == d.DevicePath }) {
			v.invalid(item.Child("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts")
		}
		names[d.Name] = d.Name != ""
	}
}

func hasBacksteps(target string) bool { return slices.Contains(strings.Split(target, "/"), "..") }

func (v *validator) noBacksteps(target string, at *field.Path) {
	if hasBacksteps(target) {
		v.invalid(at, target, "must not contain '..'")
	}
}

// descending demands a relative path that stays below where it starts.
func (v *validator) descending(target string, at *field.Path) {
	if path.IsAbs(target) {
		v.invalid(at, target, "must be a relative path")
	}
	v.noBacksteps(target, at)
}

// fileInVolume demands a path below a volume that is none of the volume's own:
// those start with two dots.
func (v *validator) fileInVolume(target string, at *field.Path) {
	v.descending(target, at)
	if strings.HasPrefix(target, "..") && !strings.HasPrefix(target, "../") {
		v.invalid(at, target, "must not start with '..'")
	}
}
