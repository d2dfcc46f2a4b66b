// Package storage holds the kinds of storage.k8s.io. They are kept for
// provisioners, attachers and drivers to act on; nothing here does.
package storage

import "github.com/skiff-k8s/skiff/apiserver/resource"

const group = "storage.k8s.io"

// Resources are the rows of the group in the order of discovery.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		csiDrivers(),
		csiNodes(),
		csiStorageCapacities(),
		storageClasses(),
		volumeAttachments(),
		volumeAttributesClasses(),
	}
}
