package reconcile

import "k8s.io/client-go/tools/cache"

// Index adds an index to an informer that has not started yet. Several controllers share an informer, so the index may
// be there already.
func Index(informer cache.SharedIndexInformer, name string, values cache.IndexFunc) (cache.Indexer, error) {
	index := informer.GetIndexer()
	if _, ok := index.GetIndexers()[name]; ok {
		return index, nil
	}
	return index, informer.AddIndexers(cache.Indexers{name: values})
}

// Indexed lists what an index has under a value.
func Indexed[T any](index cache.Indexer, name, value string) ([]T, error) {
	objs, err := index.ByIndex(name, value)
	if err != nil {
		return nil, err
	}
	list := make([]T, 0, len(objs))
	for _, obj := range objs {
		list = append(list, obj.(T))
	}
	return list, nil
}
