"""Prepare a data set from a source: the steps in their order."""

from __future__ import annotations

import contextlib
import csv
import errno
import shlex
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stacked_ram.images.formats import pixel_limit
from stacked_ram.images.names import other_spellings, path_text
from stacked_ram.preparation.archive import files_to_unpack, open_source
from stacked_ram.preparation.assign_splits import (
    SplitOutcome,
    SplitPlan,
    assign_splits,
    plan_splits,
)
from stacked_ram.preparation.catalogue import FILE, Catalogue
from stacked_ram.preparation.checked import NO_FAULT, CheckPlan
from stacked_ram.preparation.depth import common_white
from stacked_ram.preparation.download import download
from stacked_ram.preparation.duplicates import (
    Duplicates,
    drop_copies,
    find_duplicates,
    leave_out_conflicts,
)
from stacked_ram.preparation.encoding import small_jpeg, thumbnail_of
from stacked_ram.preparation.existing import existing_info, is_done
from stacked_ram.preparation.failed_report import remove_failed_report, write_failed_report
from stacked_ram.preparation.fingerprint import fingerprint_of_files
from stacked_ram.preparation.fixes import FILE as FIXES
from stacked_ram.preparation.fixes import apply_fixes, match_class
from stacked_ram.preparation.kept_checks import kept_checks
from stacked_ram.preparation.notes import notes_of, pairs_to_show
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.pool import Workers, can_check_jpegs, check_all
from stacked_ram.preparation.progress import progress_bar, progress_shown
from stacked_ram.preparation.quarantine import (
    Quarantined,
    check_quarantine,
    write_quarantine,
)
from stacked_ram.preparation.sources import find_digits, find_source, unread_tables
from stacked_ram.preparation.sources.common import Source, entries
from stacked_ram.preparation.summary import (
    PrepareSummary,
    plan_of_download,
    plan_of_photos,
    read_summary,
    summary_of,
)
from stacked_ram.preparation.time_limit import limit_for
from stacked_ram.preparation.workdir import (
    check_place,
    follow_link,
    remember_run,
    remove_tree,
    restore,
    working_folder,
)
from stacked_ram.preparation.writing import DatasetWriter
from stacked_ram.runtime.errors import RunFailed, UserError

_WORTH_KEEPING = ("source.done", "decoded")  # files in the working folder that a next run can use


def prepare(
    options: PrepareOptions, *, command: str = "", progress: bool = False
) -> PrepareSummary:
    """Turn the raw photos or digits of `options.source` into a data set at `options.dest`.

    Prints nothing. After a run was stopped, the next call with the same options continues it.

    Args:
        command: the command to record in dataset.yaml.
        progress: whether to show progress bars on standard error.

    Raises:
        UserError: the source or an option is invalid, or DEST exists and is not a data set.
        RunFailed: the run could not finish (disk full, a worker died, a fault under --strict).
    """
    options = replace(options, dest=follow_link(options.dest))
    dest = options.dest
    check_place(options.source, dest)
    if options.quarantine is not None:
        check_quarantine(options.quarantine, options.source, dest)
    existing_info(dest)
    if options.dry_run and options.download:
        return plan_of_download(options.download, dest)
    with contextlib.ExitStack() as stack:
        # check_photo has its own limit; the photos that it stored may have any size.
        stack.enter_context(pixel_limit(None))
        stack.enter_context(progress_shown(progress))
        working = scratch = working_folder(dest)
        began_empty = not working.exists()
        if options.dry_run:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if not (working / FILE).exists():
                working = scratch
        try:
            summary = _prepare_in(working, scratch, options, command)
            if options.inspect and not options.dry_run:
                # late: not every preparation waits for torch
                from stacked_ram.preparation.inspection import inspect_photos

                counts = inspect_photos(dest)["problem"].value_counts(sort=False)
                found = {str(name): int(count) for name, count in counts.items() if count}
                summary = replace(summary, inspected=found)
            if options.shards and not options.dry_run:
                # late: not every preparation waits for torch
                from stacked_ram.preparation.pack import write_shards

                summary = replace(summary, shards=write_shards(dest, options.shard_size))
            return summary
        except UserError:
            # Remove the folder unless it holds downloads or photos that the next run can use.
            if began_empty and not any((working / name).exists() for name in _WORTH_KEEPING):
                remove_tree(working)
            raise
        except (OSError, sqlite3.OperationalError) as error:
            raise RunFailed(_what_to_do(error, dest)) from error


def _prepare_in(
    working: Path, scratch: Path, options: PrepareOptions, command: str
) -> PrepareSummary:
    """Prepare in the folder `working`. A dry run leaves it unchanged and writes to `scratch`."""
    plan = CheckPlan(
        folder=working / "decoded",
        short_side=0 if options.keep_size else options.short_side,
        quality=options.quality,
        max_pixels=int(options.max_megapixels * 1e6),
        keep_large=options.keep_size and options.scene_size is None,
        keep_damaged=options.keep_damaged,
        white=options.sixteen_bit_max or 0,
        seconds=limit_for(options.max_megapixels),
    )
    # The catalogue is also a lock: from here on no other run can prepare this data set.
    with contextlib.closing(Catalogue(working, plan, keep=not options.dry_run)) as catalogue:
        if not options.dry_run:
            restore(options.dest)
        info = existing_info(options.dest)
        catalogue.multi_label = options.multi_label
        catalogue.plan = replace(plan, kept=kept_checks(options.dest, catalogue.checked_as))
        origin = _find_origin(options, command)
        # Before anything is unpacked. Files of digits are few, and have their own check.
        if (
            info is not None
            and info["kind"] != "digits"
            and origin.fingerprint is not None
            and options.quarantine is None  # which needs the source
            and is_done(options, info, origin.fingerprint)
        ):
            if not options.dry_run:
                remove_tree(working)
            return summary_of(options.dest, info, unchanged=True)
        root = open_source(origin.path, working, scratch).resolve()
        digits = find_digits(root, options)
        if digits is not None:
            summary = _prepare_digits(digits, options, info, origin)
        else:
            with _workers(options, working, root) as workers:
                summary = _prepare_photos(root, catalogue, options, info, origin, workers)
    if not options.dry_run:
        remove_tree(working)
    return summary


def _workers(options: PrepareOptions, working: Path, root: Path) -> Workers:
    if options.dask is None:
        return Workers(options.worker_count)
    from stacked_ram.preparation.dask_workers import DaskWorkers

    return DaskWorkers(options.dask, working, root)


@dataclass(frozen=True)
class _Origin:
    """Where the data come from.

    Attributes:
        path: a folder or archive.
        command: for dataset.yaml.
        downloads: the downloaded files, for dataset.yaml.
        fingerprint: of a download or of archives. None for a folder, whose fingerprint covers the
            labels of its photos, so it must be read first.
    """

    path: Path
    command: str
    downloads: list[dict[str, str | int]]
    fingerprint: str | None


def _find_origin(options: PrepareOptions, command: str) -> _Origin:
    """Download the source if need be, and recognise a download or an archive by its content."""
    fingerprint = None
    downloads: list[dict[str, str | int]] = []
    if options.download:
        found = download(options.download, options.dest)
        path, downloads = found.folder, found.files
        fingerprint = fingerprint_of_files(repr([file["sha256"] for file in downloads]), [])
    else:
        assert options.source is not None  # PrepareOptions needs either
        path = options.source
        archives, others = files_to_unpack(path)
        if archives:
            labels = [options.labels] if options.labels and options.labels.is_file() else []
            fingerprint = fingerprint_of_files(path.resolve(), [*archives, *others, *labels])
    if fingerprint is not None and options.background is not None:
        from stacked_ram.preparation.scenes import background_fingerprint

        fingerprint += background_fingerprint(options.background).text()
    return _Origin(path, command, downloads, fingerprint)


def _prepare_digits(
    folder: Path, options: PrepareOptions, info: Mapping[str, Any] | None, origin: _Origin
) -> PrepareSummary:
    options.refuse_unused("digits")
    files = entries(folder)[1]
    older = repr([(file.name, file.stat().st_size) for file in files])
    fingerprint = origin.fingerprint or fingerprint_of_files(folder, files)
    if info is not None and is_done(options, info, fingerprint, older):
        return summary_of(options.dest, info, unchanged=True)
    if options.dry_run:
        lines = (
            f"read as mnist: digits in {folder}",
            f"would write {options.dest}; nothing was written",
        )
        return PrepareSummary(options.dest, layout="mnist", kind="digits", plan=lines)
    from stacked_ram.preparation.digits import prepare_digits  # loads torch

    _remember(options, origin, fingerprint)
    prepare_digits(options, folder)
    return read_summary(options.dest)


def _prepare_photos(
    root: Path,
    catalogue: Catalogue,
    options: PrepareOptions,
    info: Mapping[str, Any] | None,
    origin: _Origin,
    workers: Workers,
) -> PrepareSummary:
    if not options.dry_run and (info is None or options.overwrite):
        workers.start()
    source = find_source(root, options)
    scenes = [] if options.scene is None else ["scenes"]
    options.refuse_unused(*scenes, "photos", source.layout)
    listed = catalogue.list_photos(root, source.records, options.seed)
    fingerprint, older = origin.fingerprint or listed.text(), listed.older()
    if options.background is not None:
        from stacked_ram.preparation.scenes import background_fingerprint, prepare_scenes

        background = background_fingerprint(options.background)
        older += background.older()
        if origin.fingerprint is None:
            fingerprint += background.text()
    if options.fixes is not None:
        source.notes.append(apply_fixes(catalogue, options, root))
    _choose(catalogue, options, root, source)
    if info is not None and is_done(options, info, fingerprint, older):
        done = summary_of(options.dest, info, unchanged=True)
        return replace(done, quarantine=_quarantine(catalogue, options, done.report))
    _refuse_one_class(catalogue, options, root, source)
    if options.dry_run:
        return plan_of_photos(catalogue, source, options)
    plan = plan_splits(catalogue, source, options)
    _remember(options, origin, fingerprint)
    found = Duplicates()
    try:
        _check(catalogue, options, workers)
        jpegs_checked = can_check_jpegs(workers)
        workers.dismiss()
        found = find_duplicates(catalogue, options.near_duplicates, official=plan.official)
        left_out = 0
        if not options.keep_conflicts:
            left_out = leave_out_conflicts(catalogue, found, near=options.drop_near_conflicts)
        if options.drop_duplicates:
            drop_copies(catalogue, found)
        outcome = assign_splits(catalogue, source, options, plan, found)
        notes = notes_of(
            catalogue, source, options, plan, found, left_out, outcome,
            jpegs_checked=jpegs_checked,
        )  # fmt: skip
        if options.background is None:
            _write(catalogue, source, options, plan, outcome, notes, found)
        else:
            prepare_scenes(
                options,
                catalogue.records(),
                rule=plan.rule,
                layout=source.layout,
                notes=notes,
                record_more=lambda writer: _record_more(catalogue, options, writer),
            )
    except UserError as error:
        _quarantine(catalogue, options)
        pairs = pairs_to_show(found, SplitOutcome())
        report = write_failed_report(catalogue, options, str(error), origin.command, pairs)
        if report is not None:
            error.args = (f"{error}; see {report / 'report.html'}",)
        raise
    remove_failed_report(options.dest)
    return replace(
        read_summary(options.dest),
        reused=catalogue.reused,
        quarantine=_quarantine(catalogue, options),
    )


def _quarantine(catalogue: Catalogue, options: PrepareOptions, report: Path | None = None) -> str:
    """Copy the quarantined files to the folder of --quarantine, if there is one.

    Args:
        report: report.html of a data set that is complete already; the table beside it lists its
            quarantined files. If None, the checks of this run are used.

    Returns:
        How many files were quarantined and where they are, in words.
    """
    if options.quarantine is None or options.dry_run:
        return ""
    photos: list[Quarantined]
    if report is None:
        photos = [
            (source, name, problem, detail)
            for source, name, fate, problem, detail, _, _ in catalogue.not_in_dataset()
            if fate == "quarantined"
        ]
    else:
        with open(report.with_suffix(".csv"), encoding="utf-8", newline="") as file:
            photos = [
                (row["source"], row["class"], row["problem"], row["detail"])
                for row in csv.DictReader(file)
                if row["fate"] == "quarantined"
            ]
    count = write_quarantine(options.quarantine, catalogue, photos)
    return f"quarantined files: {count}, in {options.quarantine}"


def _choose(catalogue: Catalogue, options: PrepareOptions, root: Path, source: Source) -> None:
    """Apply --join-classes, --classes, --max-per-class and --group-pattern to the catalogue."""
    joined = other_spellings(catalogue.class_counts()) if options.join_classes else {}
    catalogue.rename_classes(joined)
    if options.classes is not None:
        present = catalogue.class_counts()
        chosen = []
        for name in options.class_list:
            match = match_class(name, present)
            if match is None:
                shown = ", ".join(list(present)[:30]) + (" ..." if len(present) > 30 else "")
                raise UserError(f"--classes: no class {name!r} in {root}; its classes are: {shown}")
            chosen.append(match)
        catalogue.keep_classes(chosen)
    counts = catalogue.class_counts()
    source.notes += [
        f"the classes {other!r} and {name!r} differ only in case or Unicode form: "
        + ("joined" if other in joined else "--join-classes joins them")
        for other, name in (joined or other_spellings(counts)).items()
    ]
    if not counts:
        raise UserError(f"{root}: no photos found")
    if options.max_per_class is not None:
        catalogue.keep_most(options.max_per_class)
    if options.group_pattern is not None:
        catalogue.group_by(options.group_pattern)


def _refuse_one_class(
    catalogue: Catalogue, options: PrepareOptions, root: Path, source: Source
) -> None:
    """Refuse a single class, which most often means that labels were not understood."""
    counts = catalogue.class_counts()
    if len(counts) == 1 and len(catalogue.class_texts()) == 1 and options.classes is None:
        name = next(iter(counts))
        raise UserError(
            f"{root}: all photos have one class, {name!r}: check where the labels are (read as "
            f"{source.layout}; see --layout and --labels){unread_tables(root)}, or give --classes "
            f"{shlex.quote(name)} if one class is meant"
        )


def _remember(options: PrepareOptions, origin: _Origin, fingerprint: str) -> None:
    source = path_text(options.source) if options.source else f"download {options.download}"
    remember_run(
        options.dest,
        command=origin.command,
        source=source,
        fingerprint=fingerprint,
        downloads=origin.downloads,
    )


def _check(catalogue: Catalogue, options: PrepareOptions, workers: Workers) -> None:
    """Check the photos that no earlier run has checked."""
    _check_with(catalogue.plan, catalogue, options, workers)
    if options.sixteen_bit_max is None:
        white = common_white(catalogue.undeclared_16_bit()[1])
        if catalogue.forget_other_white(white):
            _check_with(replace(catalogue.plan, white=white), catalogue, options, workers)


def _check_with(
    plan: CheckPlan, catalogue: Catalogue, options: PrepareOptions, workers: Workers
) -> None:
    """Check photos with a progress bar."""
    saved = time.monotonic()
    total = catalogue.to_check()
    try:
        with progress_bar(total=total, unit="photo", desc="checking", smoothing=0.05) as bar:
            for results in check_all(catalogue.tasks(), plan, workers, bar.set_postfix_str):
                catalogue.take(results)
                bar.update(len(results))
                if options.strict:
                    _stop_at_trouble(catalogue)
                if time.monotonic() - saved > 2:
                    catalogue.save()
                    saved = time.monotonic()
    finally:
        catalogue.save()
    if options.strict:
        _stop_at_trouble(catalogue)


def _stop_at_trouble(catalogue: Catalogue) -> None:
    for source, problems, detail in catalogue.faulty():
        faults = [word for word in problems.split() if word not in NO_FAULT]
        if faults:
            about = f" ({detail})" if detail else ""
            raise RunFailed(
                f"--strict: {source}: {', '.join(faults)}{about}: repair or remove it, or run "
                "without --strict"
            )


def _write(
    catalogue: Catalogue,
    source: Source,
    options: PrepareOptions,
    plan: SplitPlan,
    outcome: SplitOutcome,
    notes: list[str],
    found: Duplicates,
) -> None:
    classes = list(catalogue.class_counts(usable=True))
    with DatasetWriter(
        options, kind="photos", channels=3, classes=classes, multi_label=catalogue.multi_label
    ) as writer:
        for record, photo in catalogue.dataset():
            writer.add(
                photo,
                class_name=record.class_name,
                split=record.split,
                source=record.source,
                group=record.group,
                box=record.box,
                fold=record.fold,
                repairs=record.repairs,
                boxes=record.boxes,
            )
        _record_more(catalogue, options, writer)
        for caption, first, second in pairs_to_show(found, outcome):
            writer.show_pair(
                caption,
                (catalogue.source_of(first), catalogue.source_of(second)),
                (catalogue.picture(first), catalogue.picture(second)),
            )
        writer.keep_checks(catalogue.checked_as, catalogue.checks())
        writer.finish(rule=plan.rule, layout=source.layout, notes=notes)


def _record_more(catalogue: Catalogue, options: PrepareOptions, writer: DatasetWriter) -> None:
    """Record the photos that are not in the data set, and the fixes that it was made with."""
    if options.fixes_content is not None:
        kept = working_folder(options.dest) / FIXES
        kept.write_bytes(options.fixes_content)
        writer.add_piece(kept, FIXES)
    for source_path, name, fate, problem, detail, preview, stored in catalogue.not_in_dataset():
        if preview is None and stored is not None:
            preview = small_jpeg(thumbnail_of(stored))
        writer.leave_out(
            source=source_path, class_name=name, fate=fate, problem=problem, detail=detail,
            preview=preview,
        )  # fmt: skip


def _what_to_do(error: Exception, dest: Path) -> str:
    code = getattr(error, "errno", None)
    what, remedy = str(error), "fix this"
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "full" in what.lower():
        what = f"no space left for the working folder {working_folder(dest)}"
        remedy = "free some space"
    return (
        f"{what}: {dest} is unchanged; {remedy}, then run the same command again:"
        " it continues from here"
    )
