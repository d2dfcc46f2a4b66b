package main

import (
	"strconv"
	"strings"
)

// seen is what a session knows of objects. What servers make up is never the
// same on two of them; whether it stays, grows or changes is.
type seen struct {
	objects map[string]identity // by namespace and name
	newest  uint64              // of all resource versions
	// cached: the answer may be from a cache, and so be older than others.
	cached bool
}

type identity struct {
	uid, created string
	version      uint64
}

// compare replaces what a server made up in metadata by how it compares with
// what was there before. What clients told stays.
func (s *seen) compare(metadata map[string]any, told string) {
	uid, _ := metadata["uid"].(string)
	created, _ := metadata["creationTimestamp"].(string)
	version, err := strconv.ParseUint(asText(metadata["resourceVersion"]), 10, 64)
	if uid == "" { // of a list or a bookmark
		if err == nil && version > 0 {
			metadata["resourceVersion"] = s.position(version)
		}
		return
	}
	key := asText(metadata["namespace"]) + "/" + asText(metadata["name"])
	before, known := s.objects[key]
	same := known && before.uid == uid
	if known && !same && !strings.Contains(told, uid) {
		metadata["uid"] = "<another uid>"
	}
	if same && before.created != created && !strings.Contains(told, created) {
		metadata["creationTimestamp"] = "<another time>"
	}
	if s.cached {
		return
	}
	if err == nil && same {
		metadata["resourceVersion"] = relation(before.version, version)
	}
	s.newest = max(s.newest, version)
	s.objects[key] = identity{uid, created, version}
}

// position says whether a list is at least as new as all that was seen before.
func (s *seen) position(version uint64) string {
	if s.cached {
		return "<rv>"
	}
	if version < s.newest {
		return "<old rv>"
	}
	s.newest = version
	return "<rv>"
}

func relation(before, now uint64) string {
	switch {
	case now > before:
		return "<newer rv>"
	case now < before:
		return "<older rv>"
	}
	return "<same rv>"
}

func asText(value any) string {
	s, _ := value.(string)
	return s
}
